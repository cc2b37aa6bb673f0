//! Which library is loaded, and what is said about one that cannot be. A process has one ONNX Runtime, so each
//! case runs in a process of its own: this program, with the single test [`child`].

use crate::support;
use psld::network::onnxruntime::Runtime;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Where [`child`] finds what to load, one path a line ("-" for none), and leaves what came of it.
const TRY: &str = "PSLD_TEST_TRY";
const REPORT: &str = "PSLD_TEST_REPORT";

#[test]
#[ignore = "the body of the processes that the other tests start"]
fn child() {
    let tries = std::env::var(TRY).unwrap();
    let path = |line: &str| (line != "-").then(|| PathBuf::from(line));
    let report: Vec<String> = tries
        .lines()
        .map(|line| match Runtime::load(path(line).as_deref()) {
            Ok(runtime) => format!("loaded {}", runtime.library_path().display()),
            Err(e) => format!("{e:?}"),
        })
        .collect();
    std::fs::write(std::env::var(REPORT).unwrap(), report.join("\n")).unwrap();
}

struct Child {
    folder: TempDir,
    program: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Child {
    fn new() -> Self {
        // On the file system of the program, for `move_to`.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder, program: std::env::current_exe().unwrap(), variables: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(mut self, variable: &'static str, value: PathBuf) -> Self {
        self.variables.push((variable, value));
        self
    }

    /// Runs the program as the file `name`: a link, as a copy that is just written cannot be run while another
    /// thread forks.
    fn move_to(mut self, name: &str) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::hard_link(&self.program, &path).unwrap();
        self.program = path;
        self
    }

    fn write(self, name: &str, contents: &str) -> Self {
        std::fs::write(self.path(name), contents).unwrap();
        self
    }

    /// A real ONNX Runtime under another name.
    fn link(self, name: &str) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(support::library().canonicalize().unwrap(), path).unwrap();
        self
    }

    /// A shared library compiled from C.
    fn compile(self, name: &str, source: &str) -> Self {
        let file = self.path("source.c");
        std::fs::write(&file, source).unwrap();
        let status =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(self.path(name)).arg(file).status();
        assert!(status.unwrap().success());
        self
    }

    /// What came of loading each of `tries` in turn, with our paths replaced.
    fn load(&self, tries: &[&str]) -> String {
        let report = self.path("report");
        let lines: Vec<String> = tries
            .iter()
            .map(|name| if *name == "-" { name.to_string() } else { self.path(name).display().to_string() })
            .collect();
        let output = Command::new(&self.program)
            .args(["--exact", "library::child", "--ignored"])
            .env_remove("PSLD_ONNXRUNTIME")
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("LD_LIBRARY_PATH")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(TRY, lines.join("\n"))
            .env(REPORT, &report)
            .output()
            .unwrap();
        // Also after a runtime was loaded, the process has to end well.
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing prints");
        let replace = |text: String, path: &Path, name: &str| text.replace(&path.display().to_string(), name);
        let text = std::fs::read_to_string(report).unwrap();
        let text = replace(text, &support::library().canonicalize().unwrap(), "ORT");
        let text = text.replace(&format!("{} from ORT", support::runtime().version()), "VERSION from ORT");
        let text = replace(text, self.folder.path(), "DIR");
        let programs = self.program.parent().unwrap();
        replace(replace(text, programs, "PROGRAMS"), programs.parent().unwrap(), "TARGET")
    }
}

const TOO_OLD: &str = r#"
    #include <stddef.h>
    static const void *get_api(unsigned version) { return NULL; }
    static const char *get_version(void) { return "1.10.0"; }
    static const struct { const void *(*get_api)(unsigned); const char *(*get_version)(void); } base =
        { get_api, get_version };
    const void *OrtGetApiBase(void) { return &base; }
"#;
const NO_SYMBOL: &str = "int answer(void) { return 42; }";
const NULL_BASE: &str = "const void *OrtGetApiBase(void) { return 0; }";

#[test]
fn nothing_anywhere_names_every_place() {
    insta::assert_snapshot!(Child::new().load(&["-"]), @"
    [RuntimeNotFound] ONNX Runtime was not found; looked at
      PSLD_ONNXRUNTIME: not set
      ORT_DYLIB_PATH: not set
      PROGRAMS: no libonnxruntime.so*
      TARGET/lib: no libonnxruntime.so*
      the system's loader, as libonnxruntime.so*: libonnxruntime.so: cannot open shared object file: No such file or directory
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    ");
}

#[test]
fn a_given_path_that_does_not_exist() {
    insta::assert_snapshot!(Child::new().load(&["absent.so"]), @"
    [RuntimeNotFound] ONNX Runtime was not found: DIR/absent.so (the path given) does not exist
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    ");
}

#[test]
fn a_variable_that_names_nothing_is_no_reason_to_look_further() {
    let child = Child::new().link("good.so");
    let (absent, good) = (child.path("absent.so"), child.path("good.so"));
    let child = child.set("PSLD_ONNXRUNTIME", absent).set("ORT_DYLIB_PATH", good);
    insta::assert_snapshot!(child.load(&["-"]), @"
    [RuntimeNotFound] ONNX Runtime was not found: DIR/absent.so (PSLD_ONNXRUNTIME) does not exist
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    ");
}

#[test]
fn what_is_no_onnx_runtime() {
    let child = Child::new()
        .write("text.so", "not a library")
        .compile("other.so", NO_SYMBOL)
        .compile("null.so", NULL_BASE)
        .compile("old.so", TOO_OLD);
    std::fs::create_dir(child.path("folder")).unwrap();
    insta::assert_snapshot!(child.load(&["text.so", "folder", "other.so", "null.so", "old.so"]), @"
    [RuntimeIncompatible] the path given: DIR/text.so cannot be loaded as a library: DIR/text.so: file too short
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    [RuntimeIncompatible] the path given: DIR/folder is a folder; expected the file libonnxruntime.so*
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    [RuntimeIncompatible] the path given: DIR/other.so is another library: it has no symbol `OrtGetApiBase`
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    [RuntimeIncompatible] the path given: DIR/null.so is another library: its `OrtGetApiBase` does not answer as ONNX Runtime's
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    [RuntimeIncompatible] the path given: DIR/old.so is ONNX Runtime 1.10.0; expected 1.17 or newer (tested up to 1.31)
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    ");
}

#[test]
fn a_failed_try_does_not_spoil_a_later_one_and_a_process_has_one() {
    let child = Child::new().compile("old.so", TOO_OLD).link("good.so").link("same.so");
    std::fs::copy(support::library(), child.path("copy.so")).unwrap();
    let tries = ["-", "old.so", "good.so", "-", "same.so", "copy.so", "absent.so"];
    insta::assert_snapshot!(child.load(&tries), @"
    [RuntimeNotFound] ONNX Runtime was not found; looked at
      PSLD_ONNXRUNTIME: not set
      ORT_DYLIB_PATH: not set
      PROGRAMS: no libonnxruntime.so*
      TARGET/lib: no libonnxruntime.so*
      the system's loader, as libonnxruntime.so*: libonnxruntime.so: cannot open shared object file: No such file or directory
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    [RuntimeIncompatible] the path given: DIR/old.so is ONNX Runtime 1.10.0; expected 1.17 or newer (tested up to 1.31)
    hint: get one with `make onnxruntime` in psld's source tree, or `pip download --no-deps onnxruntime==1.31.1` and unzip the wheel; then set PSLD_ONNXRUNTIME to its libonnxruntime file, or put that file beside the program
    loaded ORT
    loaded ORT
    loaded ORT
    [RuntimeConflict] DIR/copy.so cannot be loaded: ONNX Runtime VERSION from ORT is loaded in this process already
    hint: a process has one ONNX Runtime: choose it first
    [RuntimeNotFound] ONNX Runtime was not found at DIR/absent.so: No such file or directory (os error 2)
    ");
}

#[test]
fn the_places_in_their_order() {
    let child = || Child::new().link("good.so").compile("old.so", TOO_OLD);
    let loads = |child: Child, path: &str| child.load(&[path]).starts_with("loaded");

    let both = |first: &str, second: &str| {
        let child = child();
        let (first, second) = (child.path(first), child.path(second));
        child.set("PSLD_ONNXRUNTIME", first).set("ORT_DYLIB_PATH", second)
    };
    assert!(loads(both("old.so", "old.so"), "good.so"), "the path given comes first");
    assert!(loads(both("good.so", "old.so"), "-"), "then PSLD_ONNXRUNTIME");
    assert!(!loads(both("old.so", "good.so"), "-"));
    let only_ort = child();
    let good = only_ort.path("good.so");
    assert!(loads(only_ort.set("ORT_DYLIB_PATH", good), "-"), "then ORT_DYLIB_PATH");
    let system = Child::new().link("libonnxruntime.so.1");
    let folder = system.folder.path().to_path_buf();
    assert!(loads(system.set("LD_LIBRARY_PATH", folder), "-"), "and last the system's loader");
}

#[test]
fn beside_the_program() {
    let beside = |library: &str| Child::new().link(library).move_to("bin/program").load(&["-"]);
    for library in ["bin/libonnxruntime.so", "bin/libonnxruntime.so.1.31.1", "lib/libonnxruntime.so.1"] {
        assert_eq!(beside(library), "loaded ORT", "{library}");
    }
    assert!(beside("bin/libonnxruntime.so.backup").contains("RuntimeNotFound"));
}

#[test]
fn the_highest_version_in_a_folder_counts() {
    let child = Child::new().link("libonnxruntime.so.1.31.1").compile("libonnxruntime.so.1.9.0", TOO_OLD);
    assert_eq!(child.move_to("program").load(&["-"]), "loaded ORT");
}

#[test]
fn threads_get_the_same_runtime() {
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(support::runtime)).collect();
    for thread in threads {
        assert!(std::ptr::eq(thread.join().unwrap(), support::runtime()));
    }
    let runtime = support::runtime();
    assert!(runtime.version().starts_with("1."));
    assert!(runtime.providers().iter().any(|name| name == "CPUExecutionProvider"));
}
