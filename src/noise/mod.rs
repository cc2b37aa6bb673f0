//! noise (to come)
