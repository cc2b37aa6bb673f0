//! How much memory this process may take.

use std::fs;
use std::path::{Component, Path};
use std::sync::OnceLock;

/// Nine tenths of the memory that this process may take, as it was when that was first asked for: the machine's, or less
/// where a control group of its own or of a container around it has less.
pub(super) fn default_memory() -> u128 {
    static LIMIT: OnceLock<u128> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = of_groups(&groups, Path::new("/sys/fs/cgroup"));
        match machine().into_iter().chain(group).min() {
            Some(bytes) => bytes / 10 * 9,
            None => u128::MAX,
        }
    })
}

fn machine() -> Option<u128> {
    // SAFETY: sysconf only reads its argument.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    Some(u128::try_from(pages).ok()? * u128::try_from(size).ok()?)
}

/// The least limit of the control groups that this process is in, and of those around them. `groups` is /proc/self/cgroup, a
/// line `id:controllers:path` for each hierarchy; `mounted` is where the hierarchies are: of version 2 itself, and a folder
/// `memory` in it of version 1.
fn of_groups(groups: &str, mounted: &Path) -> Option<u128> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            return least(mounted, path, "memory.max");
        }
        let memory = controllers.split(',').any(|controller| controller == "memory");
        memory.then(|| least(&mounted.join("memory"), path, "memory.limit_in_bytes")).flatten()
    });
    limits.min()
}

/// The least number in the files called `name`, from the folder `path` of a hierarchy up to its root. In a container the path
/// may be that of the machine outside, where only the root is there to be read; `max` and what is missing limit nothing.
fn least(root: &Path, path: &str, name: &str) -> Option<u128> {
    // Not joined as it is: it is absolute, and `..` leads out of what a container may see.
    let parts = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let mut folder = root.to_path_buf();
    let folders = std::iter::once(folder.clone()).chain(parts.map(|part| {
        folder.push(part);
        folder.clone()
    }));
    folders.filter_map(|folder| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up hierarchy: files and what is in them.
    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        root
    }

    #[test]
    fn version_2() {
        let root = mounted(&[
            ("memory.max", "9000\n"),
            ("a/memory.max", "5000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/c/memory.max", "7000\n"),
            ("d/memory.max", "max\n"),
            ("e/memory.max", "nonsense\n"),
        ]);
        let limit = |groups: &str| of_groups(groups, root.path());
        assert_eq!(limit("0::/a/b/c\n"), Some(5000), "of the group around it");
        assert_eq!(limit("0::/a/b\n"), Some(5000));
        assert_eq!(limit("0::/\n"), Some(9000));
        assert_eq!(limit("0::/d\n"), Some(9000), "no limit of its own");
        assert_eq!(limit("0::/e\n"), Some(9000), "what is no number limits nothing");
        assert_eq!(limit("0::/a:b/c\n"), Some(9000), "a colon is a part of the path");
        assert_eq!(limit("0::/machine/outside/a\n"), Some(9000), "the path is not seen from within");
        assert_eq!(limit("0::/../../a\n"), Some(5000));
        assert_eq!(of_groups("0::/a\n", &root.path().join("nowhere")), None);
        assert_eq!(limit(""), None);
        assert_eq!(limit("nonsense\n0:\n"), None);
    }

    #[test]
    fn version_1() {
        let unlimited = "9223372036854771712\n";
        let root = mounted(&[
            ("memory/memory.limit_in_bytes", unlimited),
            ("memory/docker/memory.limit_in_bytes", "800\n"),
            ("memory/docker/x/memory.limit_in_bytes", "900\n"),
            ("cpu/memory.limit_in_bytes", "1\n"),
            ("unified/memory.max", "2\n"),
        ]);
        let groups =
            "12:cpu,cpuacct:/\n11:hugetlb,memory:/docker/x\n1:name=systemd:/memory\n0::/system.slice\n";
        assert_eq!(of_groups(groups, root.path()), Some(800));
        assert_eq!(of_groups("3:memory:/elsewhere\n", root.path()), Some(9223372036854771712));
        assert_eq!(of_groups("12:cpu,cpuacct:/docker/x\n", root.path()), None, "another controller's");
    }

    #[test]
    fn both_versions_limit() {
        for (one, two) in [("800\n", "900\n"), ("900\n", "800\n")] {
            let root = mounted(&[("memory/a/memory.limit_in_bytes", one), ("b/memory.max", two)]);
            for groups in ["4:memory:/a\n0::/b\n", "0::/b\n4:memory:/a\n"] {
                assert_eq!(of_groups(groups, root.path()), Some(800), "{groups}");
            }
        }
    }

    #[test]
    fn of_this_process() {
        let limit = default_memory();
        assert!(limit > 10_000_000 && limit <= machine().unwrap(), "{limit}");
    }
}
