//! What a command is given as files, and what it leaves: odd arrays, pictures of all kinds, texts of other editors, long names,
//! folders with something in them, and signals.

#![cfg(feature = "cli")]

#[path = "cli/harness.rs"]
mod harness;

use harness::{Folder, Ran, values};
use psld::io::{NewFile, npy, png};
use psld::spec::DataSpec;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

fn folder() -> Folder {
    let folder = Folder::new();
    for model in ["image", "labelled", "vector"] {
        folder.copy(&format!("tests/data/models/{model}.json"), &format!("{model}.json"));
    }
    folder
}

fn array(folder: &Folder, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    NewFile::write_with(&folder.path(name), |out| npy::write(out, shape, &values)).unwrap();
}

/// An `.npy` file as anyone may write it.
fn raw(folder: &Folder, name: &str, version: u8, descr: &str, fortran: bool, shape: &str, data: &[u8]) {
    let fortran = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(folder.path(name), bytes).unwrap();
}

/// A picture of levels, [h, w].
fn grey(folder: &Folder, name: &str, h: usize, w: usize, level: impl Fn(usize, usize) -> u8) {
    let data = DataSpec { shape: vec![1, h, w], range: [0.0, 255.0] };
    let levels: Vec<f32> = (0..h * w).map(|i| f32::from(level(i / w, i % w))).collect();
    NewFile::write_with(&folder.path(name), |out| png::write_image(out, &data, &levels)).unwrap();
}

fn psld(folder: &Folder, args: &str) -> Ran {
    folder.psld(args.split(' '))
}

/// Every place of the command line that reads an array, with `x.npy` there.
const READERS: [&str; 13] = [
    "sample image.json -n 1 --nfe 3 --out o.npy --init x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --sampler em --noise x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --sampler euler --t-start 0.5 --from-image x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --inpaint-image x.npy --inpaint-mask mask.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --inpaint-image image.npy --inpaint-mask x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --restore average:2 --measurement x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --restore mask --measurement x.npy --measurement-mask mask.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --restore mask --measurement image.npy --measurement-mask x.npy",
    "sample image.json -n 1 --nfe 3 --out o.npy --restore convolve:x.npy --measurement image.npy",
    "encode image.json x.npy --nfe 3 --out o.npy",
    "likelihood image.json x.npy --nfe 3",
    "measure image.json x.npy --restore average:2 --out o.npy",
    "interpolate image.json x.npy --out o.npy",
];

/// Arrays of all shapes and in all kinds of files: those that fit nothing are refused, naming the file and what is wrong with
/// it, and none is a panic or takes memory for what is not there.
#[test]
fn arrays_that_are_none() {
    let folder = folder();
    array(&folder, "image.npy", &[1, 3, 4, 4], |_| 0.5);
    array(&folder, "mask.npy", &[1, 1, 4, 4], |i| (i % 2) as f32);
    let refused = |what: &str, expected: &[&str]| {
        for reader in READERS {
            let ran = psld(&folder, reader);
            assert_eq!(ran.code, Some(2), "{what}: {reader}\n{ran}");
            assert!(!ran.stderr.contains("panicked"), "{reader}\n{ran}");
            for word in expected.iter().chain(&["x.npy"]) {
                assert!(ran.stderr.contains(word), "{what}: {reader}: no {word}\n{ran}");
            }
        }
    };
    let bytes = |n: usize| 0.5_f32.to_le_bytes().repeat(n);
    for (shape, shown, n) in [
        ("()", "[]", 1),
        ("(0,)", "[0]", 0),
        ("(5,)", "[5]", 5),
        ("(0, 3, 4, 4)", "[0, 3, 4, 4]", 0),
        ("(1, 3, 4, 0)", "[1, 3, 4, 0]", 0),
        ("(1, 1, 1, 1, 1, 1, 3, 4, 4)", "[1, 1, 1, 1, 1, 1, 3, 4, 4]", 48),
        ("(3, 7, 4)", "[3, 7, 4]", 84),
        ("(0, 0)", "[0, 0]", 0),
    ] {
        for version in [1, 2, 3] {
            raw(&folder, "x.npy", version, "<f4", version == 2, shape, &bytes(n));
            refused(shape, &[shown]);
        }
    }
    // As many samples as are asked for, or one for all where that makes sense.
    for (shape, reader) in [
        ([3, 6, 4, 4], "sample image.json -n 2 --nfe 3 --out o.npy --init x.npy"),
        ([3, 3, 4, 4], "sample image.json -n 2 --nfe 3 --out o.npy --from-image x.npy"),
        (
            [3, 3, 4, 4],
            "sample image.json -n 2 --nfe 3 --out o.npy --inpaint-image x.npy --inpaint-mask mask.npy",
        ),
        (
            [3, 1, 4, 4],
            "sample image.json -n 2 --nfe 3 --out o.npy --inpaint-image image.npy --inpaint-mask x.npy",
        ),
        ([3, 3, 2, 2], "sample image.json -n 2 --nfe 3 --out o.npy --restore average:2 --measurement x.npy"),
    ] {
        array(&folder, "x.npy", &shape, |_| 0.5);
        let ran = psld(&folder, reader);
        assert_eq!(ran.code, Some(2), "{reader}\n{ran}");
        assert!(
            ran.stderr.contains("x.npy: expected ") && ran.stderr.contains(&format!("{shape:?}")),
            "{ran}"
        );
    }
    // More than there is, and more than any file could hold.
    raw(&folder, "x.npy", 1, "<f4", false, "(1, 3, 4, 4)", &bytes(47));
    refused("short", &["truncated", "[1, 3, 4, 4]"]);
    raw(&folder, "x.npy", 1, "<f4", false, "(100000, 3, 400, 400)", &bytes(4));
    refused("huge", &["truncated", "[100000, 3, 400, 400]"]);
    raw(&folder, "x.npy", 1, "<f8", true, "(4294967296, 4294967296, 4294967296)", &bytes(4));
    refused("absurd", &["more than a file can hold"]);
    raw(&folder, "x.npy", 1, "<f4", false, "(0, 9223372036854775807, 3)", &[]);
    refused("absurd but empty", &["more than a file can hold"]);
    raw(&folder, "x.npy", 1, "<f4", false, "(1, -3, 4, 4)", &bytes(48));
    refused("negative", &["malformed header", "(1, -3, 4, 4)"]);
    raw(&folder, "x.npy", 1, "<f4", false, &format!("({})", "1, ".repeat(70)), &bytes(1));
    refused("axes", &["malformed header"]);
    raw(&folder, "x.npy", 1, "<c8", false, "(1, 3, 4, 4)", &bytes(96));
    refused("complex", &["<c8"]);
    // Headers that are longer than the file, or than any header.
    for head in [
        &b"\x93NUMPY\x01\x00\xff\xff"[..],
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff",
    ] {
        fs::write(folder.path("x.npy"), head).unwrap();
        refused("header", &["within its header"]);
    }
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend(100_000_u32.to_le_bytes());
    long.extend(vec![b' '; 100_000]);
    fs::write(folder.path("x.npy"), long).unwrap();
    refused("long header", &["a header of 100000 bytes"]);
    fs::write(folder.path("x.npy"), "").unwrap();
    refused("empty", &["not an .npy file"]);
    fs::remove_file(folder.path("x.npy")).unwrap();
    fs::create_dir(folder.path("x.npy")).unwrap();
    refused("folder", &[]);
    fs::remove_dir(folder.path("x.npy")).unwrap();
    // A pipe into which nobody writes would be waited for.
    // SAFETY: the path is a NUL-terminated string.
    let made = unsafe {
        let path = std::ffi::CString::new(folder.path("x.npy").to_str().unwrap()).unwrap();
        libc::mkfifo(path.as_ptr(), 0o600)
    };
    assert_eq!(made, 0);
    refused("pipe", &["not a regular file"]);
    fs::remove_file(folder.path("x.npy")).unwrap();

    // And what does fit is taken, whatever its version and order.
    let images: Vec<f32> = (0..48).map(|i| i as f32 / 64.0 - 0.25).collect();
    array(&folder, "x.npy", &[1, 3, 4, 4], |i| images[i]);
    let measured = |folder: &Folder| {
        psld(folder, "measure image.json x.npy --restore mask --out o.npy").success();
        values(&folder.path("o.npy"))
    };
    let expected = measured(&folder);
    assert_eq!(expected, (vec![1, 3, 4, 4], images.clone()));
    let little: Vec<u8> = images.iter().flat_map(|x| x.to_le_bytes()).collect();
    let big: Vec<u8> = images.iter().flat_map(|x| x.to_be_bytes()).collect();
    let double: Vec<u8> = images.iter().flat_map(|x| f64::from(*x).to_be_bytes()).collect();
    let half: Vec<u8> = images.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let extended: Vec<u8> = images.iter().flat_map(|x| long_double(f64::from(*x))).collect();
    let columns: Vec<u8> =
        (0..48).flat_map(|i| images[(i % 3) * 16 + (i / 3 % 4) * 4 + i / 12].to_le_bytes()).collect();
    for (version, descr, fortran, data) in [
        (2, "<f4", false, &little),
        (3, "<f4", true, &columns),
        (1, ">f4", false, &big),
        (1, ">f8", false, &double),
        (1, "<f2", false, &half),
        (1, "<f16", false, &extended),
    ] {
        raw(&folder, "x.npy", version, descr, fortran, "(1, 3, 4, 4)", data);
        assert_eq!(measured(&folder), expected, "{descr}");
    }
}

/// A long double of the x86.
fn long_double(x: f64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let bits = x.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    if exponent != 0 {
        let fraction = 1 << 63 | (bits & ((1 << 52) - 1)) << 11;
        let head = (exponent as u16 + 16383 - 1023) | ((bits >> 63) as u16) << 15;
        bytes[..8].copy_from_slice(&u64::to_le_bytes(fraction));
        bytes[8..10].copy_from_slice(&head.to_le_bytes());
    }
    bytes
}

/// uint8 are levels wherever images are read, as PNG has them; other integers are refused there, and all of them where the
/// numbers are the network's.
#[test]
fn integers_are_levels_or_nothing() {
    let folder = folder();
    array(&folder, "image.npy", &[1, 3, 4, 4], |_| 0.5);
    array(&folder, "mask.npy", &[1, 1, 4, 4], |_| 1.0);
    let levels: Vec<u8> = (0..48).map(|i| (i * 5) as u8).collect();
    let floats: Vec<f32> =
        levels.iter().map(|level| (-1.0 + 2.0 * f64::from(*level) / 255.0) as f32).collect();
    raw(&folder, "levels.npy", 1, "|u1", false, "(1, 3, 4, 4)", &levels);
    array(&folder, "floats.npy", &[1, 3, 4, 4], |i| floats[i]);
    raw(&folder, "quarter.npy", 1, "|u1", false, "(1, 3, 2, 2)", &levels[..12]);
    array(&folder, "quarter-floats.npy", &[1, 3, 2, 2], |i| floats[i]);
    let common = "sample image.json -n 1 --nfe 4 --seed 3 --out o.npy";
    let inpaint = format!("{common} --inpaint-mask mask.npy --inpaint-image");
    for (command, levels, floats) in [
        (inpaint.as_str(), "levels.npy", "floats.npy"),
        (&format!("{common} --sampler euler --t-start 0.1 --from-image"), "levels.npy", "floats.npy"),
        (&format!("{common} --restore average:2 --measurement"), "quarter.npy", "quarter-floats.npy"),
        (
            &format!("{common} --restore mask --measurement-mask mask.npy --measurement"),
            "levels.npy",
            "floats.npy",
        ),
        ("encode image.json --nfe 4 --out o.npy", "levels.npy", "floats.npy"),
        ("measure image.json --restore average:2 --out o.npy", "levels.npy", "floats.npy"),
    ] {
        let made = |image: &str| {
            let ran = psld(&folder, &format!("{command} {image}")).success();
            assert!(!ran.stderr.contains("warning"), "{ran}");
            values(&folder.path("o.npy"))
        };
        assert_eq!(made(levels), made(floats), "{command}");
    }
    // What is known is kept.
    psld(&folder, &format!("{inpaint} levels.npy")).success();
    assert_eq!(values(&folder.path("o.npy")).1, floats);
    let bits =
        |image: &str| psld(&folder, &format!("likelihood image.json {image} --nfe 4")).success().stdout;
    assert_eq!(bits("levels.npy"), bits("floats.npy"));

    let state: Vec<u8> = levels.iter().chain(&levels).copied().collect();
    for (descr, bytes) in [("|u1", 1), ("|i1", 1), ("<i2", 2), (">u2", 2), ("<i4", 4), ("<i8", 8), ("|b1", 1)]
    {
        let of = |data: &[u8]| -> Vec<u8> {
            let number = |level: &u8| {
                let mut number = [&[u8::from(*level > 9)][..], &vec![0; bytes - 1]].concat();
                if descr.starts_with('>') {
                    number.reverse();
                }
                number
            };
            data.iter().flat_map(number).collect()
        };
        for reader in &READERS {
            let what = &reader[reader.find("x.npy").unwrap() - 7..];
            let shape = if reader.contains("--noise") {
                raw(&folder, "x.npy", 1, descr, false, "(1, 1, 6, 4, 4)", &of(&state));
                "state"
            } else if reader.contains("--init") || reader.starts_with("interpolate") {
                raw(&folder, "x.npy", 1, descr, false, "(1, 6, 4, 4)", &of(&state));
                "state"
            } else if reader.contains("mask x.npy") || reader.contains("convolve") {
                continue;
            } else if reader.contains("--restore average") && !reader.starts_with("measure") {
                raw(&folder, "x.npy", 1, descr, false, "(1, 3, 2, 2)", &of(&levels[..12]));
                "data"
            } else {
                raw(&folder, "x.npy", 1, descr, false, "(1, 3, 4, 4)", &of(&levels));
                "data"
            };
            if shape == "data" && descr == "|u1" {
                continue;
            }
            let ran = psld(&folder, reader);
            assert_eq!(ran.code, Some(2), "{descr}: {reader}\n{ran}");
            assert!(ran.stderr.contains("x.npy") && ran.stderr.contains("hint: "), "{what}\n{ran}");
        }
        // Masks are of any numbers.
        raw(&folder, "x.npy", 1, descr, false, "(4, 4)", &of(&levels[..16]));
        psld(&folder, &format!("{common} --inpaint-image image.npy --inpaint-mask x.npy")).success();
    }
    raw(&folder, "x.npy", 1, "|u1", false, "(4, 4)", &[255; 16]);
    let ran = psld(&folder, &format!("{common} --inpaint-image image.npy --inpaint-mask x.npy"));
    assert!(ran.code == Some(2) && ran.stderr.contains("x.npy") && ran.stderr.contains("got 255"), "{ran}");
}

/// Levels as floating-point numbers are in other units: said once a run, with argument, value and range.
#[test]
fn values_far_out_of_the_range_are_warned_of() {
    let folder = folder();
    array(&folder, "levels.npy", &[5, 3, 4, 4], |i| (i % 48 * 5) as f32);
    array(&folder, "fine.npy", &[5, 3, 4, 4], |i| (i % 41) as f32 / 10.0 - 2.0);
    array(&folder, "mask.npy", &[1, 1, 4, 4], |i| f32::from(i < 8));
    // Known only where it is in the range.
    array(&folder, "holes.npy", &[1, 3, 4, 4], |i| if i % 16 < 8 { 0.5 } else { -999.0 });
    let warned = |args: &str| {
        let ran = psld(&folder, args).success();
        ran.stderr.lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let sample = "sample image.json --nfe 4 --batch 2 --out o.npy";
    for (args, name) in [
        (format!("{sample} --sampler euler --t-start 0.1 --from-image"), "from_image"),
        (format!("{sample} --inpaint-mask mask.npy --inpaint-image"), "inpaint image"),
        (format!("{sample} --restore mask --measurement-mask mask.npy --measurement"), "measurement"),
        ("encode image.json --nfe 4 --batch 2 --out o.npy".into(), "from_image"),
        ("likelihood image.json --nfe 4 --batch 2".into(), "from_image"),
        ("measure image.json --restore average:2 --out o.npy".into(), "images"),
    ] {
        let args = args.as_str();
        let said = warned(&format!("{args} levels.npy"));
        assert_eq!(said.len(), 1, "{args}: {said:?}");
        let masked = if name.starts_with("inpaint") || name == "measurement" { "195" } else { "235" };
        let expected = format!("warning: {name}: a value is {masked}, far out of the data range -1 to 1");
        assert!(said[0].starts_with(&expected), "{args}: {said:?}");
        assert_eq!(warned(&format!("{args} fine.npy")), [""; 0], "{args}");
    }
    let holes = format!("{sample} --inpaint-mask mask.npy --inpaint-image holes.npy");
    assert_eq!(warned(&holes), [""; 0]);
    let quiet = format!("{sample} --sampler euler --t-start 0.1 --from-image levels.npy --quiet");
    assert_eq!(psld(&folder, &quiet).success().stderr, "");
}

/// A picture whose size happens to be a grid's is one only with the gaps; levels of 16 bits are all kept.
#[test]
fn pictures() {
    let folder = folder();
    // (4 + 2) * 3 - 2: nine images, if its gaps were white.
    grey(&folder, "photo.png", 16, 16, |y, x| (y * 16 + x) as u8);
    let from = "sample image.json --sampler euler --nfe 4 --t-start 0.1 --out o.npy --from-image";
    for command in [from, "encode image.json --nfe 4 --out o.npy", "likelihood image.json --nfe 4"] {
        let ran = psld(&folder, &format!("{command} photo.png"));
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(
            ran.stderr.contains("photo.png: expected images of 4 x 4 pixels, or a grid of them, got 16 x 16")
        );
    }
    // One pixel of a gap is enough.
    grey(&folder, "photo.png", 16, 16, |y, x| if (y, x) == (9, 4) { 254 } else { 255 });
    assert_eq!(psld(&folder, &format!("{from} photo.png")).code, Some(2));
    grey(&folder, "grid.png", 16, 16, |y, x| if y % 6 < 4 && x % 6 < 4 { 7 } else { 255 });
    psld(&folder, &format!("{from} grid.png")).success();
    assert_eq!(values(&folder.path("o.npy")).0, [9, 3, 4, 4]);

    let deep: Vec<u16> = (0..16).map(|i| i * 4000 + 13).collect();
    let mut encoder = ::png::Encoder::new(fs::File::create(folder.path("deep.png")).unwrap(), 4, 4);
    encoder.set_color(::png::ColorType::Grayscale);
    encoder.set_depth(::png::BitDepth::Sixteen);
    let bytes: Vec<u8> = deep.iter().flat_map(|level| level.to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&bytes).unwrap();
    psld(&folder, "measure image.json deep.png --restore mask --out o.npy").success();
    let expected: Vec<f32> = deep.iter().map(|l| (-1.0 + 2.0 * f64::from(*l) / 65535.0) as f32).collect();
    assert_eq!(values(&folder.path("o.npy")).1, expected.repeat(3));
}

/// Texts as other editors write them: with a byte order mark, with CR LF; a text in UTF-16 is named as that.
#[test]
fn texts_of_other_editors() {
    let folder = folder();
    let spec = r#"{"format": 1, "process": {"kind": "vp"}, "data": {"shape": [5]}, "network": {}}"#;
    let config = r#"{"sampler": {"kind": "ddim", "nfe": 4, "seed": 3}}"#;
    let mixture = fs::read_to_string(folder.path("vector.json")).unwrap();
    let plan = psld(&folder, "plan vector.json --sampler ddim --nfe 4").success().stdout;
    let texts = [
        ("spec.json", spec, "plan vector.json --spec spec.json --sampler ddim --nfe 4"),
        ("config.json", config, "plan vector.json --config config.json"),
        ("model.json", &mixture, "info model.json"),
        ("plan.json", &plan, "plan vector.json --plan plan.json"),
        ("grid.txt", "1\n0.5, 0.25\n0.001\n", "plan vector.json --sampler ddim --grid grid.txt"),
        ("grid.json", "[1, 0.5,\n0.001]\n", "plan vector.json --sampler ddim --grid grid.json"),
    ];
    for (name, text, command) in texts {
        fs::write(folder.path(name), text).unwrap();
        let plain = psld(&folder, command).success();
        for other in [
            format!("\u{feff}{text}"),
            text.replace('\n', "\r\n"),
            format!("\u{feff}{}\r\n", text.replace('\n', "\r\n")),
        ] {
            fs::write(folder.path(name), other).unwrap();
            let ran = psld(&folder, command).success();
            assert_eq!((ran.stdout, ran.stderr), (plain.stdout.clone(), plain.stderr.clone()), "{name}");
        }
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(folder.path(name), [&[0xff, 0xfe][..], &wide].concat()).unwrap();
        let ran = psld(&folder, command);
        assert_eq!(ran.code, Some(2), "{name}\n{ran}");
        assert!(name == "model.json" || ran.stderr.contains("UTF-16"), "{ran}");
    }
}

/// A value of another type: the option and the value as given, for every kind of mistake.
#[test]
fn options_of_another_type() {
    let folder = folder();
    for (option, value, expected) in [
        ("seed", "-1", "a whole number from 0 to 18446744073709551615"),
        ("seed", "1.5", "a whole number"),
        ("seed", "\"7\"", "a whole number"),
        ("seed", "18446744073709551616", "a whole number"),
        ("seed", "true", "a whole number"),
        ("steps", "4294967296", "a whole number from 0 to 4294967295"),
        ("nfe", "[3]", "a whole number"),
        ("eta", "\"half\"", "a number"),
        ("eta", "false", "a number"),
        ("denoise", "0", "true or false"),
        ("sampler", "3", "text"),
        ("variant", "\"bh3\"", "one of bh1, bh2"),
        ("time_grid", "true", "the name of a grid or file, or an array of times"),
    ] {
        fs::write(folder.path("c.json"), format!("{{\"sampler\": {{\"{option}\": {value}}}}}")).unwrap();
        let ran = psld(&folder, "plan vector.json --config c.json");
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(ran.stderr.contains(&format!("{option}: expected {expected}")), "{ran}");
        assert!(ran.stderr.contains(&format!(", got {value}")), "{ran}");
        assert!(!ran.stderr.contains("u64") && !ran.stderr.contains("f64"), "{ran}");
    }
    fs::write(folder.path("c.json"), r#"{"guidance": {"scale": "much", "label": 1}}"#).unwrap();
    let ran = psld(&folder, "sample labelled.json --config c.json");
    assert!(
        ran.stderr.contains("guidance: scale: expected a number, or a list of numbers, got \"much\""),
        "{ran}"
    );
    fs::write(folder.path("c.json"), r#"{"restore": {"operator": {"kind": "average", "factor": -4}}}"#)
        .unwrap();
    let ran = psld(&folder, "plan image.json --config c.json");
    assert!(
        ran.stderr.contains("restore: operator.factor: expected a whole number")
            && ran.stderr.contains("got -4"),
        "{ran}"
    );
    fs::write(folder.path("c.json"), r#"{"plan": 5}"#).unwrap();
    let ran = psld(&folder, "plan image.json --config c.json");
    assert!(ran.stderr.contains("plan: expected text, got 5"), "{ran}");
}

/// A name is a name: whatever patterns, quotes and spaces it holds, and however long it is.
#[test]
fn names_of_all_kinds() {
    let folder = folder();
    let odd = "a[1-9] *?{b}$'x' \u{e4}";
    let long = |ending: &str| format!("{}{ending}", "n".repeat(255 - ending.len()));
    for (i, ending) in [".npy", ".png", "/"].into_iter().enumerate() {
        for name in
            [format!("{odd}{i}{ending}"), format!("{i}{}", &long(ending)[1..]), "m".repeat(246) + ending]
        {
            let args = ["sample", "image.json", "-n", "2", "--nfe", "3", "--out", &name];
            folder.psld(args).success();
            assert!(folder.path(&name).exists(), "{name}");
        }
    }
    let (checkpoint, model, config) = (long(".ckpt"), long(".json"), format!("{odd}.json"));
    fs::copy(folder.path("image.json"), folder.path(&model)).unwrap();
    fs::write(
        folder.path(&config),
        format!(r#"{{"inpaint": {{"image": "{odd}0.npy", "mask": "mask.npy"}}}}"#),
    )
    .unwrap();
    array(&folder, "mask.npy", &[4, 4], |_| 1.0);
    let args =
        ["sample", &model, "--nfe", "4", "--config", &config, "--checkpoint", &checkpoint, "--out", "o.npy"];
    folder.psld(args).success();
    assert_eq!(values(&folder.path("o.npy")), values(&folder.path(&format!("{odd}0.npy"))));
    folder.psld(["sample", &model, "--resume", &checkpoint, "--out", "again.npy"]).success();
    assert_eq!(values(&folder.path("o.npy")), values(&folder.path("again.npy")));
    let plan = format!("p{}", &long(".json")[1..]);
    let tune =
        ["tune", "vector.json", "--sampler", "dpmpp", "--nfe", "4", "--samples", "4", "--held-out", "4"];
    folder
        .psld(tune.iter().chain(&["--teacher-steps", "12", "--evaluations", "6", "--out", &plan]))
        .success();
    folder.psld(["sample", "vector.json", "-n", "1", "--plan", &plan, "--out", "o.npy"]).success();
    let study =
        ["study", "vector.json", "-n", "4", "--resamples", "0", "--samplers", "ddim", "--nfe", "4", "--out"];
    let dir = "s".repeat(255);
    folder.psld(study.iter().chain(&[&*dir])).success();
    assert!(folder.names(&dir).contains(&"study.png".to_owned()));
    // One more byte is too many for the system.
    let ran = folder.psld(["sample", "vector.json", "-n", "1", "--out", &format!("n{}", long(".npy"))]);
    assert!(ran.code != Some(0) && !ran.stderr.contains("panicked"), "{ran}");
    assert!(folder.names("").iter().all(|name| !name.ends_with(".tmp")), "left behind");

    // A NUL, which no name can hold, comes in by JSON only.
    for config in [
        r#"{"sampler": {"time_grid": "a\u0000b"}}"#,
        r#"{"plan": "a\u0000b.json"}"#,
        r#"{"inpaint": {"image": "a\u0000b.npy", "mask": "mask.npy"}}"#,
        r#"{"inpaint": {"image": "mask.npy", "mask": "a\u0000b.png"}}"#,
        r#"{"restore": {"operator": {"kind": "mask"}, "measurement": "a\u0000b.npy", "mask": "mask.npy"}}"#,
        r#"{"guidance": {"kind": "cfg", "scale": 2, "label": 0, "model": "a\u0000b.json"}}"#,
    ] {
        fs::write(folder.path("c.json"), config).unwrap();
        let ran = psld(&folder, "sample image.json -n 1 --nfe 4 --config c.json --out o.npy");
        assert_eq!(ran.code, Some(2), "{config}\n{ran}");
        assert!(!ran.stderr.contains("panicked"), "{ran}");
    }
}

/// What is no model, and what cannot be one.
#[test]
fn files_that_are_no_models() {
    let folder = folder();
    fs::create_dir(folder.path("folder.onnx")).unwrap();
    fs::create_dir(folder.path("folder.json")).unwrap();
    grey(&folder, "picture.onnx", 4, 4, |_, _| 0);
    fs::write(folder.path("empty.onnx"), "").unwrap();
    fs::write(folder.path("empty.json"), "").unwrap();
    fs::write(folder.path("list.json"), "[1, 2]").unwrap();
    let pipe = std::ffi::CString::new(folder.path("pipe.onnx").to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    for (model, what) in [
        ("folder.onnx", "is a folder, not a model"),
        ("folder.json", "is a folder, not a model"),
        ("pipe.onnx", "is no regular file, not a model"),
        ("/dev/null", "is no regular file, not a model"),
        ("picture.onnx", "picture.onnx"),
        ("empty.onnx", "empty.onnx"),
        ("empty.json", "not valid JSON"),
        ("list.json", "expected a JSON object"),
        ("missing.onnx", "cannot be read"),
    ] {
        for command in ["sample", "info", "plan"] {
            let ran = folder.psld([command, model]);
            assert!(matches!(ran.code, Some(1 | 2)) && ran.stderr.contains(what), "{command} {model}\n{ran}");
            assert!(!ran.stderr.contains("panicked"), "{ran}");
        }
    }
    let ran = psld(&folder, "sample image.json --resume pipe.onnx");
    assert!(ran.code == Some(2) && ran.stderr.contains("not a regular file"), "{ran}");
}

/// A folder of images is of one run.
#[test]
fn a_folder_holds_one_run() {
    let folder = folder();
    let sample = |rest: &str| psld(&folder, &format!("sample image.json --nfe 3 --quiet {rest}"));
    sample("-n 20 --out all/").success();
    assert_eq!(folder.names("all").len(), 20);
    let before = fs::read(folder.path("all/00.png")).unwrap();
    let refused = sample("-n 10 --seed 7 --out all/");
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("all/: holds 20 images already"), "{refused}");
    assert!(refused.stderr.contains("--overwrite"), "{refused}");
    assert_eq!((folder.names("all").len(), fs::read(folder.path("all/00.png")).unwrap()), (20, before));
    sample("-n 10 --seed 7 --out all/ --overwrite").success();
    assert_eq!(folder.names("all"), (0..10).map(|i| format!("{i}.png")).collect::<Vec<_>>());
    // What no run wrote is left alone, and in the way if it is a picture.
    fs::write(folder.path("all/notes.txt"), "mine").unwrap();
    sample("-n 2 --out all/ --overwrite").success();
    assert_eq!(folder.names("all"), ["0.png", "1.png", "notes.txt"]);
    grey(&folder, "all/cat.png", 4, 4, |_, _| 0);
    let refused = sample("-n 2 --out all/ --overwrite");
    assert!(refused.code == Some(2) && refused.stderr.contains("holds cat.png"), "{refused}");
    assert_eq!(folder.names("all"), ["0.png", "1.png", "cat.png", "notes.txt"]);

    // Said before anything is drawn; a run that is stopped changes nothing, and is resumed into the folder on request.
    let long =
        "sample image.json -n 3 --sampler em --steps 100000 --deadline 0.2 --checkpoint saved --out old";
    sample("-n 5 --out old/").success();
    assert_eq!(psld(&folder, long).code, Some(2));
    assert!(!folder.path("saved").exists());
    assert_eq!(psld(&folder, &format!("{long} --overwrite")).code, Some(1));
    assert!(folder.path("saved").exists());
    assert_eq!(folder.names("old").len(), 5);
    let finished = "sample image.json -n 3 --nfe 4 --checkpoint done --out x.npy";
    psld(&folder, finished).success();
    assert_eq!(psld(&folder, "sample image.json --resume done --out old").code, Some(2));
    psld(&folder, "sample image.json --resume done --out old --overwrite").success();
    assert_eq!(folder.names("old"), ["0.png", "1.png", "2.png"]);
    // An empty folder that is there is as good as none.
    fs::create_dir(folder.path("empty")).unwrap();
    sample("-n 2 --out empty").success();
    assert_eq!(folder.names("empty"), ["0.png", "1.png"]);
}

/// Labels and scales in a grid: a column for each label, a row for each scale.
#[test]
fn lists_fill_a_grid() {
    let folder = folder();
    let run = |args: &str| {
        let ran = psld(&folder, &format!("sample labelled.json --steps 6 --seed 4 --json {args}")).success();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        report["samples"].as_u64().unwrap()
    };
    let size = |name: &str| png::size(&folder.path(name)).unwrap();
    // Of 4 x 4 pixels, with gaps of 2.
    let pixels = |columns: usize, rows: usize| (columns * 6 - 2, rows * 6 - 2);
    assert_eq!(run("--label 0-2 --scale 0,1 --out grid.png"), 6);
    assert_eq!(size("grid.png"), pixels(3, 2));
    assert_eq!(run("--label 0-2 --scale 0,1 --out x.npy"), 6);
    let all = values(&folder.path("x.npy")).1;
    for (i, (label, scale)) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)].into_iter().enumerate() {
        let one = format!(
            "sample labelled.json --steps 6 --seed {} -n 1 --label {label} --scale {scale} --out y.npy",
            4 + i
        );
        psld(&folder, &one).success();
        let y = values(&folder.path("y.npy")).1;
        assert!(all[i * 16..][..16].iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-6), "sample {i}");
    }
    // The grid's second row begins with the fourth sample.
    let grid = png::read(&folder.path("grid.png"), 10, 16).unwrap();
    let first = |image: usize| ((all[image * 16] * 0.5 + 0.5) * 255.0 + 1e-4).clamp(0.0, 255.0) as u16;
    assert_eq!((grid.levels[0], grid.levels[6 * 16]), (first(0), first(3)));

    assert_eq!(run("--label 0-2 -n 8 --out grid.png"), 8);
    assert_eq!(size("grid.png"), pixels(3, 3));
    assert_eq!(run("--label 1 --scale 0,1,2 -n 6 --out grid.png"), 6);
    assert_eq!(size("grid.png"), pixels(3, 2));
    assert_eq!(run("--label 0-2 -n 2 --out grid.png"), 2);
    assert_eq!(size("grid.png"), pixels(2, 1));
    assert_eq!(run("--label 0-2 --scale 0,1 --columns 2 --out grid.png"), 6);
    assert_eq!(size("grid.png"), pixels(2, 3));
    assert_eq!(run("-n 5 --columns 5 --out grid.png"), 5);
    assert_eq!(size("grid.png"), pixels(5, 1));
    assert_eq!(run("-n 2 --columns 5 --out grid.png"), 2);
    assert_eq!(size("grid.png"), pixels(2, 1));
    for (args, what) in [
        ("--columns 0 --out grid.png", "columns = 0"),
        ("--columns 3 --out x.npy", "--columns: only a grid has them"),
        ("--columns 3 --out all/", "--columns: only a grid has them"),
    ] {
        let ran = psld(&folder, &format!("sample labelled.json -n 3 --nfe 3 {args}"));
        assert!(ran.code == Some(2) && ran.stderr.contains(what), "{ran}");
    }
}

/// Starts a sampling that takes long, and waits `seconds`.
fn long_run(folder: &Folder, args: &str, ignore: bool, seconds: u64) -> std::process::Child {
    let mut command = folder.command(args.split(' '));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: sets the disposition of a signal, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let disposition = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::signal(libc::SIGINT, disposition);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    child
}

/// What a sampling says that is interrupted while it draws; before that, where nothing is lost, it has little to say.
fn interrupted(folder: &Folder, args: &str) -> String {
    for seconds in [1, 4, 16] {
        let mut child = long_run(folder, args, false, seconds);
        interrupt(&child);
        let said = stderr(&mut child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        if said.trim() != "interrupted" {
            return said;
        }
    }
    panic!("{args}: never begins");
}

fn interrupt(child: &std::process::Child) {
    // SAFETY: sends a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) }, 0);
}

fn stderr(child: &mut std::process::Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// A Ctrl+C that is ignored where the command was begun (`trap '' INT`, nohup, a script's background) stays ignored.
#[test]
fn an_ignored_interrupt_stays_ignored() {
    let folder = folder();
    let args = "sample image.json -n 20000 --steps 1000 --deadline 4 --out x.npy";
    let mut child = long_run(&folder, args, true, 1);
    interrupt(&child);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "ended by an ignored signal");
    let said = stderr(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("deadline") && !said.contains("interrupted"), "{said}");
}

/// Work that is lost by a Ctrl+C: the message says what would have kept it.
#[test]
fn lost_work_names_the_checkpoint() {
    let folder = folder();
    let said = interrupted(&folder, "sample image.json -n 20000 --steps 1000 --out x.npy");
    assert!(said.contains("nothing is written") && said.contains("--checkpoint FILE"), "{said}");
    // `encode` has none.
    array(&folder, "images.npy", &[20000, 3, 4, 4], |_| 0.0);
    let said = interrupted(&folder, "encode image.json images.npy --sampler euler --steps 1000 --out z.npy");
    assert!(said.contains("nothing is written") && !said.contains("--checkpoint"), "{said}");
}

/// `psld help` is `psld --help`, for commands, too; what is needed comes first; shells and `man` are served.
#[test]
fn help_in_all_forms() {
    let folder = folder();
    let text = |args: &str| psld(&folder, args).success().stdout;
    assert_eq!(text("help"), text("--help"));
    for (command, usage) in [
        ("sample", "psld sample <MODEL> [OPTIONS]"),
        ("encode", "psld encode <MODEL> <IMAGES> --out <FILE.npy> [OPTIONS]"),
        ("study", "psld study <MODEL> --out <DIR> [OPTIONS]"),
        ("tune", "psld tune <MODEL> [OPTIONS]"),
        ("plan", "psld plan <MODEL> [OPTIONS]"),
        ("info", "psld info <MODEL> [OPTIONS]"),
        ("bench", "psld bench <MODEL> [OPTIONS]"),
    ] {
        let help = text(&format!("help {command}"));
        assert_eq!(help, text(&format!("{command} --help")));
        assert!(help.contains(&format!("Usage: {usage}\n\nArguments:\n  <MODEL>")), "{help}");
    }
    assert_eq!(psld(&folder, "help nonsense").code, Some(2));
    for (shell, mark) in
        [("bash", "complete -F _psld"), ("zsh", "#compdef psld"), ("fish", "complete -c psld")]
    {
        let script = text(&format!("completions {shell}"));
        assert!(script.contains(mark) && script.contains("from-image"), "{script}");
    }
    assert_eq!(psld(&folder, "completions nonsense").code, Some(2));
    let page = text("man");
    assert!(
        page.contains(".TH psld 1") && page.contains("psld\\-sample(1)") && !page.contains("psld\\-help"),
        "{page}"
    );
    text("man --out pages");
    let pages = folder.names("pages");
    assert!(pages.contains(&"psld.1".to_owned()) && pages.contains(&"psld-sample.1".to_owned()), "{pages:?}");
    let page = fs::read_to_string(folder.path("pages/psld-sample.1")).unwrap();
    assert!(page.contains(".TH psld-sample 1") && page.contains("\\-\\-from\\-image"), "{page}");
    for page in pages {
        assert!(fs::read_to_string(folder.path(&format!("pages/{page}"))).unwrap().contains(".SH SYNOPSIS"));
    }
}
