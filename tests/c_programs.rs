//! C11 and C++17 programs against the built libraries: as they are, with sanitizers, and under valgrind. Their exit
//! status counts, so what goes wrong when a process ends is seen, too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const MODEL: &str = "tests/data/capi/mixture.json";
const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"];
/// What a Rust static library needs besides itself on Linux (`rustc --print native-static-libs`).
const STATIC_NEEDS: [&str; 5] = ["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lrt"];
const SANITIZE: &str = "-fsanitize=address,undefined";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder where this build's libraries lie: beside this test.
fn libraries() -> PathBuf {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    for library in ["libpsld.so", "libpsld.a"] {
        assert!(folder.join(library).is_file(), "{library} was not built in {}", folder.display());
    }
    folder
}

fn work(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("c_programs").join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The first block of `language` in a document.
fn block(document: &str, language: &str) -> String {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let (_, rest) =
        text.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("{document}: no block"));
    rest.split_once("```").unwrap().0.to_owned()
}

/// Runs a command; its output is shown when it fails.
fn run(command: &mut Command) -> String {
    let what = format!("{command:?}");
    // Cargo's points to libraries of other builds, and comes before a program's own path.
    command.env_remove("LD_LIBRARY_PATH");
    let output =
        command.current_dir(root()).output().unwrap_or_else(|e| panic!("{what}: {e}: is it installed?"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}{err}", output.status);
    out.into_owned()
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Shared,
    Static,
}

fn compile(source: &Path, link: Link, extra: &[&str]) -> PathBuf {
    compile_all(&[source], link, extra)
}

/// One program of several translation units, named after the first.
fn compile_all(sources: &[&Path], link: Link, extra: &[&str]) -> PathBuf {
    let source = sources[0];
    let cpp = source.extension().is_some_and(|e| e == "cpp");
    let (compiler, standard) = if cpp { ("c++", "-std=c++17") } else { ("cc", "-std=c11") };
    let variant = if extra.is_empty() { "" } else { "-sanitized" };
    let link_name = if link == Link::Shared { "shared" } else { "static" };
    // With its extension: programs of both languages, whose tests run side by side, may have one name.
    let name = source.file_name().unwrap().to_str().unwrap();
    let program = work("bin").join(format!("{name}-{link_name}{variant}"));
    let folder = libraries();
    let mut command = Command::new(compiler);
    command.arg(standard).args(WARNINGS).args(extra).arg("-Iinclude").arg("-Itests/c").arg("-pthread");
    command.args(sources).arg("-o").arg(&program);
    match link {
        Link::Shared => {
            command.arg("-L").arg(&folder).arg("-lpsld");
            command.arg(format!("-Wl,-rpath,{}", folder.display()));
        }
        Link::Static => {
            command.arg(folder.join("libpsld.a")).args(STATIC_NEEDS);
        }
    }
    run(command.arg("-lm"));
    program
}

/// A program, which is ended where it hangs.
fn program(path: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300").arg(path);
    command
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "300",
        "valgrind",
        "--quiet",
        // Otherwise a thread that wants its turn may wait until another one has ended.
        "--fair-sched=try",
        "--error-exitcode=99",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite,indirect",
    ]);
    command.arg(program);
    command
}

/// `make test-core` says that there is no valgrind; nothing else leaves it out.
fn with_valgrind() -> bool {
    let without = env::var_os("PSLD_WITHOUT_VALGRIND").is_some();
    if without {
        println!("PSLD_WITHOUT_VALGRIND is set: not run under valgrind");
    }
    !without
}

fn everywhere(source: &Path) {
    everywhere_of(&[source]);
}

fn everywhere_of(sources: &[&Path]) {
    for link in [Link::Shared, Link::Static] {
        let path = compile_all(sources, link, &[]);
        run(program(&path).arg(MODEL));
        if with_valgrind() {
            run(valgrind(&path).arg(MODEL));
        }
    }
    let sanitized = compile_all(sources, Link::Shared, &[SANITIZE, "-fno-sanitize-recover=all"]);
    run(program(&sanitized).arg(MODEL));
}

#[test]
fn c_stepping() {
    everywhere(Path::new("tests/c/stepping.c"));
}

#[test]
fn c_misuse() {
    everywhere(Path::new("tests/c/misuse.c"));
}

#[test]
fn c_network() {
    everywhere(Path::new("tests/c/network.c"));
}

#[test]
fn c_threads() {
    everywhere(Path::new("tests/c/threads.c"));
}

#[test]
fn c_engine() {
    everywhere(Path::new("tests/c/engine.c"));
}

#[test]
fn c_fork() {
    let source = Path::new("tests/c/fork.c");
    for link in [Link::Shared, Link::Static] {
        run(program(&compile(source, link, &[])).arg(MODEL));
    }
    // What only the parent's threads knew, a child has lost.
    let sanitized = compile(source, Link::Shared, &[SANITIZE, "-fno-sanitize-recover=all"]);
    run(program(&sanitized).arg(MODEL).env("ASAN_OPTIONS", "detect_leaks=0"));
}

/// A host under ThreadSanitizer, with the suppressions that it needs.
#[test]
fn c_under_thread_sanitizer() {
    // Under a name of its own: `c_engine` compiles the same file.
    let source = work("source").join("engine_tsan.c");
    fs::copy(root().join("tests/c/engine.c"), &source).unwrap();
    let path = compile(&source, Link::Shared, &["-fsanitize=thread"]);
    run(program(&path).arg(MODEL).env("TSAN_OPTIONS", "suppressions=tests/tsan.supp"));
}

/// What a psld_progress is after each outcome.
#[test]
fn c_progress() {
    everywhere(Path::new("tests/c/progress.c"));
}

/// What a network of the caller's is told of its samples.
#[test]
fn c_indices() {
    everywhere(Path::new("tests/c/indices.c"));
}

/// Temporaries, and values of options that are nearly JSON.
#[test]
fn cpp_arguments() {
    everywhere(Path::new("tests/cpp/arguments.cpp"));
}

#[test]
fn cpp_program() {
    everywhere(Path::new("tests/cpp/program.cpp"));
}

/// `psld.hpp` from two translation units, one with exceptions and one without.
#[test]
fn cpp_wrapper() {
    everywhere_of(&[Path::new("tests/cpp/wrapper.cpp"), Path::new("tests/cpp/wrapper_second.cpp")]);
}

#[test]
fn the_guide_shows_the_cpp_example() {
    let source = Path::new("bindings/cpp/examples/sample.cpp");
    let path = compile(source, Link::Shared, &[]);
    let numbers = run(program(&path).arg(MODEL));
    assert_eq!(numbers.lines().filter(|line| line.parse::<f32>().is_ok()).count(), 16, "{numbers}");
    let output = program(&path).arg("nowhere.json").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(block("docs/guide/cpp.md", "cpp"), fs::read_to_string(root().join(source)).unwrap());
}

/// Four requests in the calls of the longest.
#[test]
fn the_guide_shows_the_engine_example() {
    let source = Path::new("bindings/c/examples/serve.c");
    let path = compile(source, Link::Shared, &[SANITIZE, "-fno-sanitize-recover=all"]);
    let said = run(program(&path).arg(MODEL));
    let samples = |n: usize| format!("{n} samples in {} network calls\n", if n % 2 == 1 { 12 } else { 50 });
    let expected: String = (1..=4).map(samples).collect();
    let stats = said.strip_prefix(&expected).unwrap_or_else(|| panic!("{said}"));
    let stats: serde_json::Value = serde_json::from_str(stats).unwrap();
    assert!(stats["samples"] == 4 * 12 + 6 * 50 && stats["calls"].as_u64().unwrap() < 100, "{stats}");
    assert_eq!(block("docs/guide/serving.md", "c"), fs::read_to_string(root().join(source)).unwrap());
}

#[test]
fn the_guide_shows_the_cpp_engine_example() {
    let source = Path::new("bindings/cpp/examples/serve.cpp");
    let said = run(program(&compile(source, Link::Shared, &[])).arg(MODEL));
    let expected: String = (1..=4).map(|n| format!("{n} samples in 50 network calls\n")).collect();
    assert!(said.starts_with(&expected) && said.contains("\"completed\":4"), "{said}");
    assert_eq!(block("docs/guide/serving.md", "cpp"), fs::read_to_string(root().join(source)).unwrap());
}

/// What `conformance.rs` gets inside of this process, a program gets from the library.
fn conformance(path: &Path) {
    let file = fs::read_to_string(root().join("tests/conformance.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let text = |name: &str| case[name].as_str().unwrap();
        if text("model").ends_with(".onnx") && cfg!(not(feature = "onnxruntime")) {
            continue;
        }
        let mut command = program(path);
        command.args([text("model"), &case["sampler"].to_string(), &case["n"].to_string()]);
        command.args([&case["seed"].to_string(), text("precision"), text("output")]);
        command.arg(if case["values"].is_array() { "values" } else { "hash" });
        let said = run(command.env("PSLD_ONNXRUNTIME", onnxruntime()));
        if let Some(values) = case["values"].as_array() {
            let made: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(made.len(), values.len(), "{case}");
            for (x, expected) in made.iter().zip(values.iter().map(|value| value.as_f64().unwrap())) {
                let tolerance = file["tolerance"].as_f64().unwrap() * expected.abs().max(1.0);
                assert!((x - expected).abs() <= tolerance, "{x}, not {expected}: {case}");
            }
            continue;
        }
        let expected = match case["hash"].as_str() {
            Some(hash) => hash.to_owned(),
            None => format!("{} {}", case["status"], text("message")),
        };
        assert_eq!(said.trim_end(), expected, "{case}");
    }
}

#[test]
fn c_conformance() {
    for link in [Link::Shared, Link::Static] {
        conformance(&compile(Path::new("tests/c/conformance.c"), link, &[]));
    }
}

/// Through `psld.hpp`.
#[test]
fn cpp_conformance() {
    conformance(&compile(Path::new("tests/cpp/conformance.cpp"), Link::Shared, &[]));
}

fn onnxruntime() -> PathBuf {
    env::var_os("PSLD_ONNXRUNTIME")
        .map_or_else(|| root().join("target/onnxruntime/libonnxruntime.so"), PathBuf::from)
}

/// Not under valgrind: ONNX Runtime is not ours to check.
#[cfg(feature = "onnxruntime")]
#[test]
fn c_onnx() {
    let library = onnxruntime();
    assert!(
        library.is_file(),
        "this test needs ONNX Runtime at {}: run `make onnxruntime`",
        library.display()
    );
    let on_the_model = |path: &Path| {
        let mut command = program(path);
        command.arg("models/cifar10-exact.onnx").env("PSLD_ONNXRUNTIME", &library);
        command
    };
    let source = Path::new("tests/c/onnx.c");
    for link in [Link::Shared, Link::Static] {
        run(&mut on_the_model(&compile(source, link, &[])));
    }
    // Leaks of ONNX Runtime at exit would be reported as ours.
    let sanitized = compile(source, Link::Shared, &[SANITIZE, "-fno-sanitize-recover=all"]);
    run(on_the_model(&sanitized).env("ASAN_OPTIONS", "detect_leaks=0"));
    let out = work("out").join("cifar10.ppm");
    let path = compile(Path::new("bindings/c/examples/sample.c"), Link::Shared, &[]);
    run(on_the_model(&path).arg(&out).arg("1"));
    assert_eq!(fs::metadata(&out).unwrap().len(), 13 + 3072);
}

/// A child of a process that has used ONNX Runtime loads a model of its own.
#[cfg(feature = "onnxruntime")]
#[test]
fn c_fork_onnx() {
    // Under another name than that of the test beside it.
    let source = work("source").join("fork_onnx.c");
    fs::copy(root().join("tests/c/fork.c"), &source).unwrap();
    for link in [Link::Shared, Link::Static] {
        let path = compile(&source, link, &[]);
        run(program(&path).arg("tests/data/onnxruntime/model.onnx").env("PSLD_ONNXRUNTIME", onnxruntime()));
    }
}

/// A plugin that is unloaded and loaded again, each time at another address if it may be: the library itself, as cargo links
/// it, and a plugin of the host's that the static library was linked into by someone who knows of nothing.
#[cfg(feature = "onnxruntime")]
#[test]
fn c_reload() {
    let folder = work("reload");
    // ONNX Runtime says something about it.
    let mut model =
        psld::onnx::Model::read(fs::read(root().join("tests/data/onnxruntime/model.onnx")).unwrap()).unwrap();
    let unused = psld::onnx::proto::TensorProto {
        name: Some("not_used".into()),
        dims: vec![4],
        data_type: Some(1),
        float_data: vec![0.0; 4],
        ..Default::default()
    };
    model.graph_mut().initializer.push(unused);
    let path = folder.join("warns.onnx");
    fs::write(&path, model.to_bytes()).unwrap();

    let host = folder.join("host");
    run(Command::new("cc")
        .args(["-std=c11", "-Iinclude", "-Itests/c", "-pthread", "-o"])
        .arg(&host)
        .args(WARNINGS)
        .args(["tests/c/reload.c", "-ldl", "-lm"]));
    let plugin = folder.join("plugin.so");
    let mut link = Command::new("cc");
    link.args(["-shared", "-o"]).arg(&plugin).arg("-Wl,--whole-archive").arg(libraries().join("libpsld.a"));
    run(link.arg("-Wl,--no-whole-archive").args(STATIC_NEEDS));
    for library in [libraries().join("libpsld.so"), plugin] {
        run(program(&host).arg(library).arg(&path).env("PSLD_ONNXRUNTIME", onnxruntime()));
    }
    let dynamic = run(Command::new("readelf").arg("-dW").arg(libraries().join("libpsld.so")));
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}

/// Files below a folder.
#[cfg(feature = "onnxruntime")]
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Neither a write below the home folder nor a word on the network, of the program and of one that only links psld. (Python
/// gets it from the same library: bindings/python/tests/test_native.py.) Four seconds, after which telemetry would ask for
/// the host's address.
#[cfg(feature = "onnxruntime")]
#[test]
fn onnxruntime_does_not_phone_home() {
    let model = "tests/data/onnxruntime/model.onnx";
    let linked = compile(Path::new("tests/c/quiet.c"), Link::Shared, &[]);
    let strace = Command::new("strace").arg("--version").output().is_ok_and(|o| o.status.success());
    if !strace {
        println!("no strace: the network is not watched");
    }
    for (name, setting) in [("linked", None), ("program", None), ("linked", Some("1")), ("linked", Some("0"))]
    {
        let folder = work("quiet").join(format!("{name}-{}", setting.unwrap_or("unset")));
        let (home, trace) = (folder.join("home"), folder.join("trace"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&home).unwrap();
        let mut command = Command::new("timeout");
        command.arg("100");
        if strace {
            command.args(["strace", "-f", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o"]).arg(&trace);
        }
        match name {
            "program" => {
                // Until its deadline, and so without samples.
                let program = env!("CARGO_BIN_EXE_psld");
                let endless = ["-n", "64", "--sampler", "em", "--steps", "1000000", "--deadline", "4"];
                command.args(["sh", "-c", "\"$@\"; [ $? = 1 ]", "sh", program, "sample", model, "--quiet"]);
                command.args(endless).arg("--out").arg(folder.join("out.npy"));
            }
            _ => _ = command.arg(&linked).args([model, "4", setting.unwrap_or("1")]),
        }
        command.env_clear().env("PSLD_ONNXRUNTIME", onnxruntime()).env("PATH", env::var_os("PATH").unwrap());
        command.env("HOME", &home).envs(setting.map(|value| ("ORT_DISABLE_TELEMETRY", value)));
        for variable in ["CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"] {
            command.env(format!("XDG_{variable}"), &home);
        }
        run(&mut command);
        // What the user says stands; and so it is known that this test sees what it looks for.
        if setting == Some("0") {
            assert_ne!(files(&home), Vec::<PathBuf>::new(), "telemetry of ONNX Runtime 1.29 and later");
            continue;
        }
        assert_eq!(files(&home), Vec::<PathBuf>::new(), "{name}");
        let said = if strace { fs::read_to_string(&trace).unwrap() } else { String::new() };
        let calls = said.lines().filter(|line| ["connect(", "send"].iter().any(|call| line.contains(call)));
        let foreign: Vec<_> = calls.filter(|line| !line.contains("AF_UNIX")).collect();
        assert!(foreign.is_empty(), "{name}: {foreign:#?}");
    }
}

/// The lines of the header's program, without the comment's frame.
fn program_of_the_header() -> String {
    let header = fs::read_to_string(root().join("include/psld.h")).unwrap();
    let begin = header.find(" *     // cc -std=c11").expect("the header opens with a program");
    let program: Vec<_> = header[begin..]
        .lines()
        .map_while(|line| line.strip_prefix(" *     ").or((line == " *").then_some("")))
        .collect();
    program.join("\n").trim_end().to_owned() + "\n"
}

#[test]
fn the_program_at_the_top_of_the_header() {
    let source = work("source").join("sample16.c");
    fs::write(&source, program_of_the_header()).unwrap();
    everywhere(&source);
    let path = compile(&source, Link::Shared, &[]);
    let numbers = run(program(&path).arg(MODEL));
    assert_eq!(numbers.lines().filter(|line| line.parse::<f32>().is_ok()).count(), 16, "{numbers}");
    let output = program(&path).arg("nowhere.json").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("nowhere.json: the model cannot be read: "), "{message}");
}

#[test]
fn the_guide_shows_the_same_program() {
    assert_eq!(block("docs/guide/c.md", "c"), program_of_the_header());
}

/// The README's few lines, within a program that declares what they leave out.
#[test]
fn the_readme_shows_what_works() {
    let model = format!("\"{}\"", root().join(MODEL).display());
    let lines = |language: &str| block("README.md", language).replace("\"model.onnx\"", &model);
    let c = format!(
        "#include <psld.h>\n#include <stdio.h>\n#include <stdlib.h>\nint main(void) {{\npsld_model *model = NULL;\n\
         psld_sampler *sampler = NULL;\npsld_error *err = NULL;\nsize_t count = 16 * 12;\nfloat *x = calloc(count, sizeof *x);\n\
         {}printf(\"%g\\n\", x[count - 1]);\nint failed = err != NULL || x[count - 1] == 0;\nfree(x);\npsld_error_free(err);\n\
         psld_sampler_free(sampler);\npsld_model_free(model);\nreturn failed;\n}}\n",
        lines("c")
    );
    let cpp = format!("#include <psld.hpp>\n#include <iostream>\nint main() {{\n{}}}\n", lines("cpp"));
    let sources = [("readme.c", c), ("readme.cpp", cpp)].map(|(name, text)| {
        let source = work("readme").join(name);
        fs::write(&source, text).unwrap();
        source
    });
    let [c, cpp] = sources.map(|source| run(&mut program(&compile(&source, Link::Shared, &[]))));
    assert!(c.trim().parse::<f32>().is_ok(), "{c}");
    assert!(cpp.starts_with("16 samples, the first value is "), "{cpp}");
}

#[test]
fn the_example_compiles_and_runs() {
    let source = Path::new("bindings/c/examples/sample.c");
    everywhere(source);
    let out = work("out").join("samples.ppm");
    let path = compile(source, Link::Shared, &[]);
    run(program(&path).arg(MODEL).arg(&out).arg("4"));
    let image = fs::read(&out).unwrap();
    // Two by two images of two by two pixels.
    assert!(image.starts_with(b"P6\n4 4\n255\n") && image.len() == 11 + 48, "{} bytes", image.len());
}

/// Guided by the model itself and by a classifier; what was known of a completed image is checked by the program.
#[test]
fn the_examples_of_conditioning_run() {
    let classes = Path::new("bindings/c/examples/classes.c");
    let program_of = |source: &Path| compile(source, Link::Shared, &[SANITIZE, "-fno-sanitize-recover=all"]);
    let path = program_of(classes);
    for guide in [None, Some("tests/data/models/classifier.json")] {
        let out = work("out").join("classes.ppm");
        let mut command = program(&path);
        command.arg("tests/data/models/labelled.json").arg(&out).arg("2").args(guide);
        run(&mut command);
        // Four by four images of four by four pixels, all of the brightest class.
        let picture = fs::read(&out).unwrap();
        assert!(picture.starts_with(b"P6\n16 16\n255\n") && picture.len() == 13 + 768);
        let mean = picture[13..].iter().map(|level| f64::from(*level)).sum::<f64>() / 768.0;
        assert!((mean - 1.6 * 127.5).abs() < 8.0, "guide {guide:?}: {mean}");
    }
    // Steered to the means of the brightest and the darkest class, which a third of the samples have by themselves.
    let steering = program_of(Path::new("bindings/c/examples/steering.c"));
    for target in ["0.6", "-0.6"] {
        let out = work("out").join("steering.ppm");
        let said = run(program(&steering).arg("tests/data/models/labelled.json").arg(&out).arg(target));
        let mean: f64 = said.trim().strip_prefix("mean ").unwrap().parse().unwrap();
        assert!((mean - target.parse::<f64>().unwrap()).abs() < 0.05, "steered to {target}: {mean}");
        assert_eq!(fs::metadata(&out).unwrap().len(), 13 + 64 * 16 * 3);
    }
    let inpaint = program_of(Path::new("bindings/c/examples/inpaint.c"));
    let out = work("out").join("inpaint.ppm");
    run(program(&inpaint).arg(MODEL).arg(&out).arg("3"));
    assert_eq!(fs::metadata(&out).unwrap().len(), 11 + 4 * 4 * 12);
}

#[test]
fn the_shared_library_exports_nothing_else() {
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=posix"]).arg(libraries().join("libpsld.so"));
    let symbols = run(&mut nm);
    let mut exported: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let foreign: Vec<_> = exported.iter().filter(|name| !name.starts_with("psld_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let header = fs::read_to_string(root().join("include/psld.h")).unwrap();
    assert!(exported.len() > 30);
    for name in exported {
        assert!(header.contains(&format!(" {name}(")) || header.contains(&format!("*{name}(")), "{name}");
    }
}

#[test]
fn the_header_stands_alone_in_both_languages() {
    for (language, standard) in
        [("c", "-std=c99"), ("c", "-std=c11"), ("c++", "-std=c++11"), ("c++", "-std=c++20")]
    {
        let mut command = Command::new(if language == "c" { "cc" } else { "c++" });
        command.args(["-x", language, standard, "-fsyntax-only", "-Wconversion", "-Wundef"]).args(WARNINGS);
        run(command.args(["-include", "include/psld.h", "/dev/null"]));
    }
    for mode in [&[][..], &["-fno-exceptions", "-DPSLD_NO_EXCEPTIONS"]] {
        let mut command = Command::new("c++");
        command.args(["-x", "c++", "-std=c++17", "-fsyntax-only", "-Iinclude"]).args(mode).args(WARNINGS);
        run(command.args(["-include", "include/psld.hpp", "/dev/null"]));
    }
}
