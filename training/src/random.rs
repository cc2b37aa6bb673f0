//! Randomness outside libtorch: a pure function of (seed, purpose, index, element).
//!
//! The Philox of [`psld::noise`], under purposes of its own (16 and up, where psld's end at 3): element e of index i
//! is made of the words at the counter (e, low word of i, purpose, high word of i), keyed by the seed. Order and
//! mirroring of the data, times and withheld labels come from here, so that they depend neither on the device nor on
//! libtorch's version; the noise of perturbation and dropout is libtorch's, seeded anew at each step from
//! [`step_seed`], since the state of its generators cannot be saved.

use psld::noise::philox4x32;

/// What a draw is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// The order of the samples; index: the epoch, element: the sample.
    Order = 16,
    /// Whether a sample is mirrored; index: the epoch, element: its place in the epoch.
    Flip = 17,
    /// The time; index: the step, element: the place in the batch.
    Time = 18,
    /// Whether a label is withheld; index: the step, element: the place in the batch.
    Label = 19,
    /// libtorch's seed; index: the step.
    Libtorch = 20,
    /// The component of a mixture's point; element: the point.
    Component = 21,
}

fn word(seed: u64, purpose: Purpose, index: u64, element: u32) -> u64 {
    let counter = [element, index as u32, purpose as u32, (index >> 32) as u32];
    let [low, high, ..] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    u64::from(low) | u64::from(high) << 32
}

/// Uniform in [0, 1), of 53 bits.
pub fn uniform(seed: u64, purpose: Purpose, index: u64, element: u32) -> f64 {
    (word(seed, purpose, index, element) >> 11) as f64 / (1u64 << 53) as f64
}

/// The seed of libtorch's generators in a step.
pub fn step_seed(seed: u64, step: u64) -> i64 {
    word(seed, Purpose::Libtorch, step, 0) as i64
}

/// The order of `n` samples in an epoch: sorted by a 64-bit word each, and by their number where those agree.
pub fn order(seed: u64, epoch: u64, n: usize) -> Vec<i64> {
    let mut order: Vec<(u64, i64)> =
        (0..n).map(|i| (word(seed, Purpose::Order, epoch, i as u32), i as i64)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_of_its_own() {
        let first = order(7, 0, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<i64>>());
        assert_ne!(first, order(7, 1, 1000));
        assert_ne!(first, order(8, 0, 1000));
        assert_eq!(first, order(7, 0, 1000));
        let fixed = first.iter().zip(0..).filter(|(a, b)| **a == *b).count();
        assert!(fixed < 8, "{fixed} samples stayed in place");
    }
}
