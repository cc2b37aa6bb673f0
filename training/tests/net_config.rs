//! Configurations, the parameters that follow from them, and the values that they begin with.

mod common;

use common::{VECTORS, vector};
use psld_training::net::{Init, NetConfig, Network, PRESETS};

fn network(config: &str) -> psld::Result<Network> {
    Network::new(&serde_json::from_str(config).unwrap())
}

#[test]
fn the_authors_configurations_give_the_authors_parameters() {
    for name in VECTORS {
        let (case, _) = vector(name);
        case.network.check(&case.weights).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn presets_have_the_published_sizes() {
    let millions = |name: &&str| {
        let network = Network::new(&NetConfig::preset(name).unwrap()).unwrap();
        let count: usize = network.parameters().iter().map(|p| p.len()).sum();
        format!("{name} {:.1}", count as f64 / 1e6)
    };
    let expected = [
        "tiny 0.2",
        "small 2.2",
        "cifar10-ddpmpp 39.4",
        "cifar10-best 97.6",
        "celeba64 62.8",
        "afhq128 65.8",
        "classifier-cifar10 56.7",
    ];
    assert_eq!(PRESETS.iter().map(millions).collect::<Vec<_>>(), expected);
}

#[test]
fn a_configuration_survives_being_written() {
    for name in PRESETS {
        let config = NetConfig::preset(name).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NetConfig>(&text).unwrap(), config, "{text}");
    }
    let mlp: NetConfig = toml::from_str("kind = 'mlp'\nin_ch = 4\nwidth = 16").unwrap();
    assert_eq!(mlp.state_shape(), [4]);
}

#[test]
fn mistakes_are_named() {
    for (config, expected) in [
        (r#"{"nf": 7}"#, "nf must be even"),
        (r#"{"nf": 100}"#, "change nf or ch_mult"),
        (r#"{"ch_mult": []}"#, "ch_mult must name at least one level"),
        (r#"{"num_res_blocks": 0}"#, "num_res_blocks must be at least 1"),
        (r#"{"image_size": 20}"#, "image_size must be divisible by 2"),
        (r#"{"attn_resolutions": [5]}"#, "attn_resolutions: 5"),
        (r#"{"fir_kernel": [1, 2, 2, 1]}"#, "fir_kernel must be [1, 3, 3, 1]"),
        (r#"{"progressive": "output_skip", "out_ch": 3}"#, "out_ch must equal in_ch"),
        (r#"{"dropout": 1.0}"#, "dropout must be in [0, 1)"),
        (r#"{"init_scale": -1.0}"#, "init_scale must be"),
        (r#"{"n_cls": 0}"#, "n_cls must be at least 1"),
        (r#"{"n_cls": 2, "classes": 2}"#, "`classes` must be 0"),
        (r#"{"kind": "mlp", "extent": [0]}"#, "extent must be at least 1"),
    ] {
        let error = network(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{config}: {error}");
    }
    for (config, expected) in [
        (r#"{"kind": "unet"}"#, "unknown variant `unet`"),
        (r#"{"num_resblocks": 2}"#, "unknown field `num_resblocks`, expected one of"),
        (r#"{"kind": "classifier"}"#, "missing field `n_cls`"),
        (r#"{"progressive": "some"}"#, "unknown variant `some`"),
    ] {
        let error = serde_json::from_str::<NetConfig>(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{config}: {error}");
    }
    assert!(NetConfig::preset("large").unwrap_err().to_string().contains("cifar10-best"));
}

#[test]
fn initial_values_follow_their_rule() {
    let network =
        network(r#"{"nf": 64, "init_scale": 0.5, "embedding_type": "fourier", "classes": 3}"#).unwrap();
    let values = network.initial_values(7);
    network.check(&values).unwrap();
    assert_eq!(values, network.initial_values(7));
    assert_ne!(values, network.initial_values(8));
    for p in network.parameters() {
        let values: Vec<f64> = values[&p.name].iter().map(|&value| value.into()).collect();
        let fan = |shape: &[usize]| {
            let kernel: usize = shape[2..].iter().product();
            (kernel * (shape[0] + shape[1])) as f64 / 2.0
        };
        let variance = match p.init {
            Init::Constant(value) => {
                assert!(values.iter().all(|&got| got == value), "{}", p.name);
                continue;
            }
            Init::FanAverage(scale) => scale / fan(&p.shape),
            Init::Normal(std) | Init::Fixed(std) => std * std,
        };
        let got = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
        // The mean of n squares of a normal has a relative deviation of sqrt(2 / n).
        let tolerance = 5.0 * (2.0 / values.len() as f64).sqrt();
        assert!((got / variance - 1.0).abs() < tolerance, "{}: variance {got:e}, not {variance:e}", p.name);
    }
    let scale = |name: &str| network.parameters().iter().find(|p| p.name == name).unwrap().init;
    assert_eq!(scale("all_modules.0.W"), Init::Fixed(16.0));
    assert_eq!(scale("all_modules.1.weight"), Init::FanAverage(1.0));
    assert_eq!(scale("all_modules.4.Conv_0.weight"), Init::FanAverage(1.0));
    assert_eq!(scale("all_modules.4.Conv_1.weight"), Init::FanAverage(0.5));
}
