//! `include/psld.h` is what cbindgen makes of `src/capi/`, and `tests/support/exports.rs` the same functions in Rust, for
//! tests that call all of them. `PSLD_UPDATE_HEADER=1 cargo test --test header` (`make header`) writes both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// In the header's order.
const SOURCES: [&str; 13] = [
    "error",
    "capi/types",
    "capi/init",
    "capi/version",
    "capi/error",
    "capi/runtime",
    "capi/model",
    "capi/network",
    "capi/sampler",
    "capi/run",
    "capi/probe",
    "capi/engine",
    "capi/noise",
];
const LAST: &str = "capi/log";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn generate() -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    config.header = Some(read("src/capi/psld.h.top").trim_end().to_owned());
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES.iter().chain([&LAST]) {
        builder = builder.with_src(root().join(format!("src/{source}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().expect("cbindgen reads src/capi").write(&mut header);
    String::from_utf8(header).unwrap()
}

fn is_committed(path: &str, generated: &str) {
    if env::var_os("PSLD_UPDATE_HEADER").is_some() {
        fs::write(root().join(path), generated).unwrap();
    }
    let committed = fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(committed == generated, "{path} is not what src/capi/ says: run `make header`");
}

#[test]
fn the_committed_header_is_the_generated_one() {
    is_committed("include/psld.h", &generate());
}

#[test]
fn the_committed_list_of_exports_is_the_generated_one() {
    let about = "// All of include/psld.h, for who defines the macro. Written by `make header`.\n";
    let lines = exports().into_iter().map(|export| format!("    fn {}{};\n", export.name, export.signature));
    is_committed(
        "tests/support/exports.rs",
        &format!("{about}exports! {{\n{}}}\n", lines.collect::<String>()),
    );
}

struct Export {
    name: String,
    /// Arguments and result, on one line.
    signature: String,
    body: String,
}

/// In the order of their files' names.
fn exports() -> Vec<Export> {
    let mut exports = Vec::new();
    let mut files: Vec<_> =
        fs::read_dir(root().join("src/capi")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for path in files {
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = read(&path);
        for item in text.split("#[unsafe(no_mangle)]\n").skip(1) {
            let name = item.strip_prefix("pub extern \"C\" fn ").unwrap_or_else(|| {
                panic!("{}: no_mangle on something else than a function: {item:.60}", path.display())
            });
            let (name, rest) = name.split_once('(').unwrap();
            let item = rest.split("\n}\n").next().unwrap();
            let (signature, body) =
                item.split_once(" {\n").unwrap_or_else(|| panic!("{name}: a body on its own lines"));
            let words: Vec<&str> = signature.split_whitespace().collect();
            let signature = format!("({}", words.join(" ").replace(",)", ")").replace(", )", ")"));
            exports.push(Export { name: name.to_owned(), signature, body: body.trim().to_owned() });
        }
    }
    exports
}

#[test]
fn the_body_of_every_export_is_one_guard() {
    let exports = exports();
    assert!(exports.len() > 30, "only {} exports found", exports.len());
    for Export { name, body, .. } in exports {
        assert!(name.starts_with("psld_"), "{name}");
        let guarded = ["guard(", "guard_value("].iter().any(|guard| body.starts_with(guard));
        // One expression: what begins on the first line ends on the last.
        let whole = body.ends_with(')') && body.lines().skip(1).all(|line| line.starts_with("    "));
        let one = body.lines().count() == 1 || body.lines().last() == Some("    })");
        assert!(guarded && whole && one, "{name} is not one guard:\n{body}");
    }
}

#[test]
fn nothing_outside_of_capi_is_exported() {
    fn visit(folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("src/capi") {
                    visit(&path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                assert!(!read(&path).contains("no_mangle"), "{}", path.display());
            }
        }
    }
    visit(&root().join("src"));
}

#[test]
fn the_header_declares_every_export_with_a_thread_rule() {
    let header = generate();
    let declared: BTreeSet<String> = header
        .split("/**")
        .skip(1)
        .filter_map(|item| {
            let (comment, declaration) = item.split_once("*/")?;
            let (name, _) = declaration.split_once('(')?;
            let name = name.rsplit([' ', '*', '\n']).next()?;
            let function = name.starts_with("psld_") && !declaration.trim_start().starts_with("typedef");
            function.then(|| {
                assert!(comment.contains("* Threads: "), "{name} has no thread rule");
                name.to_owned()
            })
        })
        .collect();
    let exported: BTreeSet<String> = exports().into_iter().map(|export| export.name).collect();
    assert_eq!(declared, exported);
}
