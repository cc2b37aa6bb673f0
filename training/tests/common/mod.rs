//! What the network tests of all back ends share: the authors' vectors, random networks of every kind, and a
//! plain interpreter in double precision.
#![allow(dead_code)] // each test program uses its part

pub mod reference;

use std::collections::BTreeMap;
use std::path::PathBuf;

use psld::noise::{Purpose, fill_f32};
use psld_training::net::{
    Classifier, Combine, Embedding, Init, Mlp, Ncsnpp, NetConfig, Network, Progressive, ProgressiveInput,
    ResBlock, Weights,
};

/// The folders of the authors' vectors.
pub const VECTORS: [&str; 4] = ["sota_fir_residual", "default_positional", "ddpm_blocks", "classifier"];

/// A network, an input and perhaps the output that it must have.
pub struct Case {
    pub name: String,
    pub network: Network,
    pub weights: Weights,
    pub batch: usize,
    pub z: Vec<f32>,
    pub t: Vec<f32>,
    pub y: Option<Vec<i64>>,
}

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/ncsnpp").join(name)
}

/// The authors' vector `name` and its output.
pub fn vector(name: &str) -> (Case, Vec<f32>) {
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let config: NetConfig = serde_json::from_str(&config).unwrap();
    let mut io = tensors(&folder(name).join("io.safetensors"));
    let mut take = |key: &str| io.remove(key).unwrap();
    let (t, z, output) = (take("t"), take("z"), take("y"));
    let network = Network::new(&config).unwrap();
    let weights = tensors(&folder(name).join("weights.safetensors"));
    (Case { name: name.into(), network, weights, batch: t.len(), z, t, y: None }, output)
}

/// The values of a safetensors file of float32.
pub fn tensors(path: &std::path::Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    file.iter().map(|(name, view)| (name.to_owned(), values(view.data()))).collect()
}

/// Weights that keep activations of order 1 everywhere, also where training begins with zeros.
pub fn random_weights(network: &Network, seed: u64) -> Weights {
    let values = |(i, p): (usize, &psld_training::net::ParamSpec)| {
        let mut values = vec![0f32; p.len()];
        fill_f32(seed, Purpose::Probe, i as u32 + 1, 0, &mut values);
        let fan_in = if p.name.contains("NIN") { p.shape[0] } else { p.shape[1..].iter().product() };
        let (mean, std) = match p.init {
            Init::Constant(mean) => (mean, 0.1),
            Init::FanAverage(_) => (0.0, (fan_in as f64).powf(-0.5)),
            Init::Normal(std) | Init::Fixed(std) => (0.0, std),
        };
        values.iter_mut().for_each(|value| *value = (mean + std * f64::from(*value)) as f32);
        (p.name.clone(), values)
    };
    network.parameters().iter().enumerate().map(values).collect()
}

/// A random network of `config` with a random input.
pub fn random(name: &str, config: &NetConfig, seed: u64) -> Case {
    let network = Network::new(config).unwrap_or_else(|error| panic!("{name}: {error}"));
    let batch = 2;
    let mut z = vec![0.0; batch * config.state_shape().iter().product::<usize>()];
    fill_f32(seed, Purpose::Probe, 0, 0, &mut z);
    let y = (config.classes() > 0).then(|| vec![1, config.classes() as i64]);
    let weights = random_weights(&network, seed);
    Case { name: name.into(), network, weights, batch, z, t: vec![0.7, 0.25], y }
}

/// Every combination of the options of NCSN++, on small images.
pub fn combinations() -> Vec<(String, NetConfig)> {
    let mut all = Vec::new();
    let flags = [false, true];
    for resblock_type in [ResBlock::Biggan, ResBlock::Ddpm] {
        for progressive in [Progressive::None, Progressive::OutputSkip, Progressive::Residual] {
            for progressive_input in
                [ProgressiveInput::None, ProgressiveInput::InputSkip, ProgressiveInput::Residual]
            {
                for progressive_combine in [Combine::Sum, Combine::Cat] {
                    for embedding_type in [Embedding::Fourier, Embedding::Positional] {
                        for bits in 0..32usize {
                            let [fir, noise_cond, skip_rescale, resamp_with_conv, labels] =
                                [0, 1, 2, 3, 4].map(|bit| flags[bits >> bit & 1]);
                            let config = Ncsnpp {
                                in_ch: 2,
                                out_ch: 2,
                                nf: 8,
                                ch_mult: vec![1, 2],
                                num_res_blocks: 1,
                                attn_resolutions: vec![4],
                                image_size: 8,
                                fourier_scale: 1.0,
                                classes: if labels { 3 } else { 0 },
                                resblock_type,
                                progressive,
                                progressive_input,
                                progressive_combine,
                                embedding_type,
                                fir,
                                noise_cond,
                                skip_rescale,
                                resamp_with_conv,
                                ..Ncsnpp::default()
                            };
                            let name = format!(
                                "{resblock_type:?} {progressive:?} {progressive_input:?} \
                                 {progressive_combine:?} {embedding_type:?} fir {fir} noise_cond {noise_cond} \
                                 skip_rescale {skip_rescale} resamp_with_conv {resamp_with_conv} labels {labels}"
                            );
                            all.push((name, NetConfig::Ncsnpp(config)));
                        }
                    }
                }
            }
        }
    }
    all
}

/// Random networks of every kind: some sixty combinations of options, in which each pair of options meets,
/// larger ones, classifiers and perceptrons.
pub fn random_networks() -> Vec<Case> {
    let all = combinations();
    // 37 has no factor in common with the number of combinations, so nothing repeats in step with it.
    let mut cases: Vec<_> = all
        .iter()
        .enumerate()
        .step_by(37)
        .map(|(i, (name, config))| random(name, config, i as u64))
        .collect();
    let deep = Ncsnpp {
        nf: 20,
        ch_mult: vec![1, 2, 3],
        num_res_blocks: 2,
        attn_resolutions: vec![16, 8],
        image_size: 16,
        classes: 10,
        ..Ncsnpp::default()
    };
    cases.push(random("deep", &NetConfig::Ncsnpp(deep.clone()), 1));
    let encoder = Ncsnpp { classes: 0, fir: true, progressive_input: ProgressiveInput::Residual, ..deep };
    cases.push(random("classifier", &NetConfig::Classifier(Classifier { encoder, n_cls: 7 }), 2));
    let mlp = Mlp { width: 32, blocks: 2, ..Mlp::default() };
    cases.push(random("mlp", &NetConfig::Mlp(mlp.clone()), 3));
    let mlp = Mlp { extent: vec![3, 2], embedding_type: Embedding::Positional, classes: 2, out_ch: 2, ..mlp };
    cases.push(random("mlp of matrices", &NetConfig::Mlp(mlp), 4));
    cases
}

/// The folder of [`gradient_cases`]' gradients, by libtorch.
pub fn gradients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gradients.safetensors")
}

/// Random classifiers of every kind of layer that one can have, a batch of three states, and the labels in whose
/// probability the states' gradients are asked for.
pub fn gradient_cases() -> Vec<Case> {
    // What makes a difference on the way down, and each pair of it.
    let kinds = combinations().into_iter().step_by(61).filter_map(|(name, config)| match config {
        NetConfig::Ncsnpp(encoder) => Some((name, Ncsnpp { classes: 0, ..encoder })),
        _ => None,
    });
    let deep = Ncsnpp {
        in_ch: 2,
        nf: 20,
        ch_mult: vec![1, 2, 3],
        num_res_blocks: 2,
        attn_resolutions: vec![8, 4],
        image_size: 8,
        ..Ncsnpp::default()
    };
    let kinds = kinds.chain([("deep".into(), deep)]).enumerate();
    let mut cases: Vec<_> = kinds
        .map(|(i, (name, encoder))| {
            random(&name, &NetConfig::Classifier(Classifier { encoder, n_cls: 5 }), i as u64)
        })
        .collect();
    for (i, case) in cases.iter_mut().enumerate() {
        case.batch = 3;
        case.t = vec![0.7, 0.25, 0.01];
        case.z = vec![0.0; 3 * case.network.config().state_shape().iter().product::<usize>()];
        fill_f32(i as u64, Purpose::Probe, 0, 0, &mut case.z);
        case.y = Some((0..3).map(|j| ((i + 2 * j) % 5) as i64).collect());
    }
    cases
}

/// Panics unless `got` is `expected` up to `tolerance`, in units of the expected root mean square.
pub fn assert_close(name: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: number of values");
    let rms = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    let worst = got
        .iter()
        .zip(expected)
        .map(|(&a, b)| (f64::from(a) - b).abs())
        .fold(0.0, |worst: f64, error| if error.is_nan() { f64::NAN } else { worst.max(error) });
    assert!(rms > 0.01, "{name}: the expected output is almost zero (rms {rms}), which would test nothing");
    assert!(worst <= tolerance * rms, "{name}: worst error {worst:e} with an expected rms of {rms}");
}
