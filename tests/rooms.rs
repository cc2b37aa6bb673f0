//! The house has floors: modules depend on others in one direction. Read from the `use` lines and paths of `src/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module: its names from the crate's root down, such as `["solver", "unipc"]`.
type Name = Vec<String>;
type Edges = BTreeMap<String, BTreeSet<String>>;

/// The text without comments and without its test module, which is its last item (clippy sees to that).
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let without = |line: &str| line.find("//").map_or(line, |at| &line[..at]).to_owned();
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

/// All files below `folder` with the modules that they are.
fn modules(folder: &Path, name: &[String], found: &mut Vec<(Name, PathBuf)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            modules(&path, &[name, &[stem]].concat(), found);
        } else if ["lib", "mod"].contains(&stem.as_str()) {
            found.push((name.to_vec(), path));
        } else {
            found.push(([name, &[stem]].concat(), path));
        }
    }
}

/// The paths that a text after `crate::` or `super::` names, braces taken apart, each as far as it has names.
fn paths(text: &str) -> Vec<Name> {
    fn one(text: &str, before: &[String], found: &mut Vec<Name>) -> usize {
        let text_bytes = text.as_bytes();
        let mut at = text_bytes.iter().take_while(|c| c.is_ascii_whitespace()).count();
        if text_bytes.get(at) == Some(&b'{') {
            at += 1;
            loop {
                at += one(&text[at..], before, found);
                at += text_bytes[at..].iter().take_while(|c| c.is_ascii_whitespace()).count();
                match text_bytes.get(at) {
                    Some(b',') => at += 1,
                    Some(b'}') => return at + 1,
                    _ => return at,
                }
            }
        }
        let length = text_bytes[at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count();
        if length == 0 {
            found.push(before.to_vec());
            return at;
        }
        let name = [before, &[text[at..at + length].to_owned()]].concat();
        at += length;
        if text[at..].starts_with("::") {
            return at + 2 + one(&text[at + 2..], &name, found);
        }
        if let Some(rest) = text[at..].strip_prefix(" as ") {
            at += 4 + rest.bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'_').count();
        }
        found.push(name);
        at
    }
    let mut found = Vec::new();
    one(text, &[], &mut found);
    found
}

/// What the parts of `code` that begin with `keyword` name.
fn named(code: &str, keyword: &str) -> Vec<Name> {
    code.match_indices(keyword)
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .flat_map(|(at, _)| paths(&code[at + keyword.len()..]))
        .collect()
}

/// The modules of `src/`, those whose names each one makes its own (`pub use`), and what each names.
struct House {
    code: BTreeMap<Name, String>,
    again: BTreeMap<Name, BTreeMap<String, Name>>,
}

impl House {
    fn read() -> Self {
        let mut files = Vec::new();
        modules(Path::new("src"), &[], &mut files);
        files.retain(|(name, path)| {
            name.first().is_none_or(|first| first != "bin") && path.extension().unwrap() == "rs"
        });
        let code: BTreeMap<Name, String> =
            files.into_iter().map(|(name, path)| (name, code(&fs::read_to_string(path).unwrap()))).collect();
        let mut again = BTreeMap::<Name, BTreeMap<String, Name>>::new();
        for (module, text) in &code {
            for keyword in ["pub use ", "pub(crate) use ", "pub(super) use "] {
                for path in named(text, keyword).into_iter().filter(|path| path.len() > 1) {
                    let own = again.entry(module.clone()).or_default();
                    own.insert(path.last().unwrap().clone(), path[..path.len() - 1].to_vec());
                }
            }
        }
        Self { code, again }
    }

    /// The module that holds what `path` names, seen from `from`; names that a module makes its own lead to where they are from.
    fn module(&self, from: &[String], path: &[String]) -> Name {
        let mut module = from.to_vec();
        for name in path {
            let child = [&module[..], std::slice::from_ref(name)].concat();
            if self.code.contains_key(&child) {
                module = child;
            } else if let Some(of) = self.again.get(&module).and_then(|own| own.get(name)) {
                return match of.first().map(String::as_str) {
                    Some("crate") => self.module(&[], &of[1..]),
                    _ => self.module(&module, of),
                };
            } else {
                break;
            }
        }
        module
    }

    /// Who of the modules in `folder` needs which other of them.
    fn edges(&self, folder: &[String]) -> Edges {
        let mut edges = Edges::new();
        let inside = |name: &Name| (name.len() > folder.len()).then(|| name[..=folder.len()].to_vec());
        for (module, text) in self.code.iter().filter(|(module, _)| module.starts_with(folder)) {
            let Some(own) = inside(module) else { continue };
            let above = &module[..module.len() - 1];
            let needs = named(text, "crate::").into_iter().map(|path| self.module(&[], &path));
            let needs = needs.chain(named(text, "super::").into_iter().map(|path| match path.first() {
                Some(first) if first == "super" && !above.is_empty() => {
                    self.module(&above[..above.len() - 1], &path[1..])
                }
                _ => self.module(above, &path),
            }));
            for other in needs.filter(|name| name.starts_with(folder)).filter_map(|name| inside(&name)) {
                if other != own {
                    edges.entry(own.join("/")).or_default().insert(other.join("/"));
                }
            }
        }
        edges
    }
}

/// A way from a module back to itself.
fn circle(edges: &Edges) -> Option<Vec<String>> {
    fn visit(edges: &Edges, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        let module = way.last().unwrap().clone();
        for next in edges.get(&module).into_iter().flatten() {
            if let Some(at) = way.iter().position(|seen| seen == next) {
                return Some([&way[at..], std::slice::from_ref(next)].concat());
            }
            if !done.contains(next) {
                way.push(next.clone());
                if let Some(found) = visit(edges, way, done) {
                    return Some(found);
                }
                way.pop();
            }
        }
        done.insert(module);
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|module| visit(edges, &mut vec![module.clone()], &mut done))
}

#[test]
fn no_circle_of_modules() {
    let house = House::read();
    let folders: BTreeSet<Name> = house
        .code
        .keys()
        .filter(|name| !name.is_empty())
        .map(|name| name[..name.len() - 1].to_vec())
        .collect();
    assert!(folders.len() > 10, "{folders:?}");
    let circles: Vec<String> = folders
        .iter()
        .filter_map(|folder| circle(&house.edges(folder)))
        .map(|circle| circle.join(" -> "))
        .collect();
    assert!(circles.is_empty(), "circles of modules:\n{}", circles.join("\n"));
    // It sees what it should.
    let edges = house.edges(&[]);
    assert!(edges["run"].contains("solver") && edges["capi"].contains("run") && !edges.contains_key("error"));
}

#[test]
fn a_circle_is_found() {
    let edge = |a: &str, b: &str| (a.to_owned(), BTreeSet::from([b.to_owned()]));
    let edges = Edges::from([edge("a", "b"), edge("b", "c"), edge("c", "b")]);
    assert_eq!(circle(&edges).unwrap().join(" "), "b c b");
    let found = named("use crate::{a, b::{C, d as e}};\nfn f() { crate::g::h() } // crate_::x", "crate::");
    assert_eq!(found.iter().map(|path| path.join("::")).collect::<Vec<_>>(), ["a", "b::C", "b::d", "g::h"]);
}
