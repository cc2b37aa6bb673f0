//! The documents: that their links lead somewhere, and that nothing is left out of the book.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

fn all() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for folder in ["docs", "models", "bindings", "tests/data", "training"] {
        documents(Path::new(folder), &mut found);
    }
    found
}

/// The text without code.
fn prose(text: &str) -> String {
    let blocks = text.split("```").step_by(2).collect::<String>();
    blocks.split('`').step_by(2).collect()
}

/// What `](...)` names.
fn links(text: &str) -> Vec<String> {
    prose(text).split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// As GitHub names the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.split("```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in all() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            checked += 1;
            let (path, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let target = match path {
                "" => document.clone(),
                _ => document.parent().unwrap().join(path),
            };
            let found = target.exists()
                && anchor
                    .is_none_or(|anchor| anchors(&fs::read_to_string(&target).unwrap()).contains(anchor));
            if !found {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(checked > 60, "{checked}");
}

/// Whoever reads the book's page of contents finds every page of it; pictures are shown somewhere.
#[test]
fn the_book_is_whole() {
    let contents = Path::new("docs/README.md");
    let listed: BTreeSet<PathBuf> = links(&fs::read_to_string(contents).unwrap())
        .iter()
        .filter_map(|link| fs::canonicalize(contents.parent().unwrap().join(link)).ok())
        .collect();
    let mut pages = Vec::new();
    documents(Path::new("docs"), &mut pages);
    let missing: Vec<_> = pages
        .iter()
        .filter(|page| *page != contents && !listed.contains(&fs::canonicalize(page).unwrap()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let shown: BTreeSet<PathBuf> = all()
        .iter()
        .flat_map(|page| {
            let text = fs::read_to_string(page).unwrap();
            links(&text)
                .into_iter()
                .filter_map(|link| fs::canonicalize(page.parent().unwrap().join(link)).ok())
        })
        .collect();
    for picture in
        fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        assert!(
            shown.contains(&fs::canonicalize(&picture).unwrap()) || picture == contents,
            "{}",
            picture.display()
        );
    }
}

/// Every field that a spec or a configuration may have stands in its reference, by the parsers' own lists.
#[test]
fn the_reference_is_whole() {
    let spec = |process: &str, network: &str| {
        format!(
            r#"{{"format": 1, "process": {{{process}}}, "data": {{"shape": [2]}}, "network": {{{network}}}}}"#
        )
    };
    let of_spec = |text: String| psld::ModelSpec::parse(&text).unwrap_err();
    let of_config = |text: &str| psld::config::Config::parse(text, Path::new("")).unwrap_err();
    let cases = [
        ("model-spec", of_spec(spec(r#""kind": "vp", "qqqqqqqqqq": 1"#, ""))),
        ("model-spec", of_spec(spec(r#""kind": "vp""#, r#""qqqqqqqqqq": 1"#))),
        ("configuration", psld::SamplerSpec::parse(r#"{"qqqqqqqqqq": 1}"#).unwrap_err()),
        ("configuration", of_config(r#"{"inpaint": {"qqqqqqqqqq": 1}}"#)),
        ("configuration", of_config(r#"{"guidance": {"qqqqqqqqqq": 1}}"#)),
        ("configuration", of_config(r#"{"restore": {"qqqqqqqqqq": 1}}"#)),
    ];
    for (page, error) in cases {
        let text = fs::read_to_string(format!("docs/reference/{page}.md")).unwrap();
        let hint = error.hint_text().unwrap_or_default().to_owned();
        let known = hint.strip_prefix("known: ").map(|names| names.split(", ").map(str::to_owned).collect());
        let known: Vec<String> = known.unwrap_or_default();
        assert!(!known.is_empty(), "{error}: {hint}");
        for name in known {
            assert!(text.contains(&format!("`{name}`")), "docs/reference/{page}.md: `{name}` is missing");
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string("README.md").unwrap().lines().count();
    assert!(lines <= 250, "{lines} lines");
}
