//! Noise against an independent transcription, against itself however it is cut, and against statistics.

use psld::isa::Isa;
use psld::noise::{MAX_ELEMENTS, Purpose, fill, fill_f32, fill_f64, philox4x32};
use sha2::{Digest, Sha256};

/// Known answers of Random123 (`kat_vectors`, philox4x32 10).
#[test]
fn philox_known_answers() {
    let zeros = philox4x32([0; 4], [0; 2]);
    assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let ones = philox4x32([u32::MAX; 4], [u32::MAX; 2]);
    assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let pi = philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
    assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

/// `tests/scripts/noise_reference.py` shares neither code nor elementary functions with the library.
#[test]
fn golden() {
    #[derive(serde::Deserialize)]
    struct Case {
        seed: u64,
        purpose: Purpose,
        draw: u32,
        first_element: u64,
        normals: Vec<f64>,
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/noise/golden.json")).unwrap();
    assert!(cases.iter().any(|case| case.first_element + case.normals.len() as u64 == MAX_ELEMENTS));
    for Case { seed, purpose, draw, first_element, normals } in cases {
        let (mut wide, mut narrow) = (vec![0.0; normals.len()], vec![0.0; normals.len()]);
        fill_f64(seed, purpose, draw, first_element, &mut wide);
        fill_f32(seed, purpose, draw, first_element, &mut narrow);
        for (i, expected) in normals.into_iter().enumerate() {
            let place = format!("seed {seed}, {purpose}, draw {draw}, element {}", first_element + i as u64);
            assert!((wide[i] - expected).abs() < 1e-12, "{place}: {} is not {expected}", wide[i]);
            assert_eq!(narrow[i].to_bits(), (wide[i] as f32).to_bits(), "{place}");
        }
    }
}

const MILLION: usize = 1_000_000;

fn million(isa: Isa) -> (Vec<f64>, Vec<f32>) {
    let (mut wide, mut narrow) = (vec![0.0; MILLION], vec![0.0; MILLION]);
    fill(isa, 2303_01748, Purpose::Solver, 5, 3, &mut wide);
    fill(isa, 2303_01748, Purpose::Solver, 5, 3, &mut narrow);
    (wide, narrow)
}

/// The bits of every platform: these are part of the library's contract and never change.
#[test]
fn bits_are_pinned() {
    let (wide, narrow) = million(Isa::detect());
    let hash = |bytes: Vec<u8>| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let wide = hash(wide.iter().flat_map(|x| x.to_le_bytes()).collect());
    let narrow = hash(narrow.iter().flat_map(|x| x.to_le_bytes()).collect());
    assert_eq!(wide, "f8a332a5680dcb97443f122817294cb17eb7b36252e9d0e05733b47844d67f87");
    assert_eq!(narrow, "469568e87e173e3453a4284b6ef26a8d084c77d430a1573e5a1a8b147e02bb3e");
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let (wide, narrow) = million(Isa::SCALAR);
    for isa in Isa::available() {
        let (other_wide, other_narrow) = million(isa);
        assert!(wide.iter().map(|x| x.to_bits()).eq(other_wide.iter().map(|x| x.to_bits())), "{isa} f64");
        assert!(narrow.iter().map(|x| x.to_bits()).eq(other_narrow.iter().map(|x| x.to_bits())), "{isa} f32");
        println!("{isa}: same bits");
    }
}

/// Every start and length around a few vectors, then a large range in uneven pieces from its end backwards.
#[test]
fn any_cut_and_order_gives_the_same_bits() {
    let first = 1_000_003;
    let mut whole = vec![0.0; 100_000];
    fill_f64(u64::MAX, Purpose::Prior, 1, first, &mut whole);
    for isa in Isa::available() {
        for start in 0..40 {
            for length in 0..80 {
                let mut part = [0.0; 80];
                fill(isa, u64::MAX, Purpose::Prior, 1, first + start as u64, &mut part[..length]);
                assert_eq!(part[..length], whole[start..start + length], "{isa}, {start}, {length}");
                assert!(part[length..].iter().all(|&x| x == 0.0), "{isa} wrote beyond {length} elements");
            }
        }
        let mut pieces = vec![0.0; whole.len()];
        let (mut end, mut length) = (whole.len(), 1);
        while end > 0 {
            let start = end.saturating_sub(length);
            fill(isa, u64::MAX, Purpose::Prior, 1, first + start as u64, &mut pieces[start..end]);
            (end, length) = (start, length * 7 % 1009);
        }
        assert_eq!(pieces, whole, "{isa}");
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "MAX_ELEMENTS")]
fn elements_beyond_the_counter_are_a_defect() {
    fill_f32(0, Purpose::Prior, 0, MAX_ELEMENTS - 3, &mut [0.0; 4]);
}

#[test]
fn purposes_have_names() {
    for (number, purpose) in Purpose::ALL.into_iter().enumerate() {
        assert_eq!(purpose as usize, number);
        assert_eq!(purpose.name().parse::<Purpose>().unwrap(), purpose);
        assert_eq!(serde_json::to_value(purpose).unwrap(), purpose.name());
    }
    assert_eq!(
        "Solver".parse::<Purpose>().unwrap_err().to_string(),
        "unknown noise purpose `Solver`; expected one of prior, solver, inpaint, probe"
    );
}

/// Ten million normals: spread over seeds, which differ as little as those of a run.
const SEEDS: u64 = 100;
const ELEMENTS: usize = 100_000;
const N: f64 = (SEEDS as usize * ELEMENTS) as f64;

fn normals(seed: u64, purpose: Purpose, draw: u32) -> Vec<f64> {
    let mut out = vec![0.0; ELEMENTS];
    fill_f64(seed, purpose, draw, 0, &mut out);
    out
}

/// Fails unless `value` is within five standard deviations of what independent normals give.
#[track_caller]
fn expect(what: &str, value: f64, mean: f64, deviation: f64) {
    let sigmas = (value - mean) / deviation;
    assert!(sigmas.abs() < 5.0, "{what}: {value}, expected {mean}, off by {sigmas:.1} standard deviations");
}

#[test]
fn moments_and_tails() {
    let mut sums = [0.0; 4];
    let mut tails = [[0.0; 2]; 3];
    for seed in 0..SEEDS {
        for x in normals(seed, Purpose::Solver, 0) {
            let square = x * x;
            for (sum, power) in sums.iter_mut().zip([x, square, square * x, square * square]) {
                *sum += power;
            }
            for (tail, limit) in tails.iter_mut().zip([3.0, 4.0, 5.0]) {
                tail[usize::from(x < 0.0)] += f64::from(x.abs() > limit);
            }
        }
    }
    // E x^(2m) = (2m - 1)!!, so the variances of x, x^2, x^3, x^4 are 1, 3 - 1, 15, 105 - 9.
    for (i, (mean, variance)) in [(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0f64)].into_iter().enumerate()
    {
        expect(&format!("moment {}", i + 1), sums[i] / N, mean, (variance / N).sqrt());
    }
    // 1 - Phi at 3, 4 and 5.
    let probabilities = [1.349_898_031_630_095_7e-3, 3.167_124_183_311_996_5e-5, 2.866_515_718_791_946e-7];
    for (counts, p) in tails.into_iter().zip(probabilities) {
        for count in counts {
            expect("tail", count, N * p, (N * p * (1.0 - p)).sqrt());
        }
    }
}

/// Correlations of x with y, and of x^2 with y^2, over all seeds.
///
/// The squares see what the values cannot: a radius that two normals share, or signs that differ.
fn expect_independent<'a>(what: &str, pairs: impl Iterator<Item = (&'a f64, &'a f64)>) {
    let (mut n, mut values, mut squares) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        n += 1.0;
        values += x * y;
        squares += (x * x - 1.0) * (y * y - 1.0) / 2.0;
    }
    expect(what, values / n, 0.0, f64::sqrt(1.0 / n));
    expect(&format!("{what}, squares"), squares / n, 0.0, f64::sqrt(1.0 / n));
}

#[test]
fn neighbours_are_independent() {
    let samples: Vec<_> = (0..SEEDS).map(|seed| normals(seed, Purpose::Solver, 0)).collect();
    for lag in 1..=8 {
        let pairs = samples.iter().flat_map(|x| x.iter().zip(&x[lag..]));
        expect_independent(&format!("lag {lag}"), pairs);
    }
    let partners = samples.iter().flat_map(|x| x.as_chunks::<2>().0).map(|[cos, sin]| (cos, sin));
    expect_independent("partners", partners);
    let seeds = samples.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    expect_independent("seeds", seeds);
}

#[test]
fn streams_are_independent() {
    let solver: Vec<_> = (0..SEEDS).map(|seed| normals(seed, Purpose::Solver, 0)).collect();
    let others = [
        ("draws", Purpose::Solver, 1, 0),
        ("prior", Purpose::Prior, 0, 0),
        ("inpaint", Purpose::Inpaint, 0, 0),
        ("probe", Purpose::Probe, 0, 0),
        ("low bit of the seed's high word", Purpose::Solver, 0, 1 << 32),
        ("high bit of the seed's high word", Purpose::Solver, 0, 1 << 63),
    ];
    for (what, purpose, draw, flip) in others {
        let other: Vec<_> = (0..SEEDS).map(|seed| normals(seed ^ flip, purpose, draw)).collect();
        expect_independent(what, solver.iter().flatten().zip(other.iter().flatten()));
    }
}
