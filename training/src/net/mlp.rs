//! A residual multi-layer perceptron, for vector data.

use std::f64::consts::TAU;

use super::config::{Embedding, Mlp};
use super::ncsnpp::{dense, positional};
use super::ops::{Init, Ops};

/// The network's output for states `z`, times `t` and labels `y`.
pub(super) fn mlp<O: Ops>(ops: &mut O, config: &Mlp, z: O::T, t: O::T, y: Option<O::T>) -> O::T {
    let (width, sample) = (config.width, config.extent.iter().product::<usize>());
    let waves = match config.embedding_type {
        Embedding::Fourier => {
            let frequencies = ops.param("time.W", &[width], Init::Fixed(config.fourier_scale));
            let t = ops.ln(&t);
            ops.waves(&t, &frequencies, TAU)
        }
        Embedding::Positional => positional(ops, &t, width),
    };
    let time = dense(ops, "time.0", &waves, width, 1.0);
    let time = ops.silu(&time);
    let mut time = dense(ops, "time.1", &time, width, 1.0);
    if let Some(y) = y {
        // One more row than classes: that of "no class".
        let table = ops.param("label.weight", &[config.classes + 1, width], Init::Normal(1.0));
        let label = ops.embed(&y, &table);
        time = ops.add(&time, &label);
    }
    let time = ops.silu(&time);

    let z = ops.reshape(&z, &[config.in_ch * sample]);
    let mut h = dense(ops, "input", &z, width, 1.0);
    for block in 0..config.blocks {
        let branch = ops.silu(&h);
        let branch = dense(ops, &format!("blocks.{block}.0"), &branch, width, 1.0);
        let shift = dense(ops, &format!("blocks.{block}.time"), &time, width, 1.0);
        let branch = ops.add(&branch, &shift);
        let branch = ops.silu(&branch);
        let branch = ops.dropout(&branch);
        let branch = dense(ops, &format!("blocks.{block}.1"), &branch, width, config.init_scale);
        h = ops.add(&h, &branch);
    }
    let h = ops.silu(&h);
    let h = dense(ops, "output", &h, config.out_ch * sample, config.init_scale);
    let shape: Vec<_> = std::iter::once(config.out_ch).chain(config.extent.iter().copied()).collect();
    ops.reshape(&h, &shape)
}
