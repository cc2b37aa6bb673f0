//! The exact Gaussian-mixture network.
