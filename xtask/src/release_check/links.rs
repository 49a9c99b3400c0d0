//! Links of the documentation: from README files and guides on a registry's page, and between built pages.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{
    CRATES,
    packed::{self, Packed},
};

/// The site that has the documentation of published crates.
const SITE: &str = "https://docs.rs/";

/// Follows the links of the packed README files and guides, and of the pages that they became, in the built
/// documentation. Returns those that lead nowhere.
pub(super) fn check(built: &Path, packed: &[Packed]) -> Result<Vec<String>, String> {
    let mut pages = Pages { built, texts: BTreeMap::new() };
    let mut problems = Vec::new();
    let failed = |error: io::Error| format!("reading the documentation: {error}");
    let mut count = 0;
    for packed in packed {
        let name = packed.of.name;
        let readme = fs::read_to_string(packed.path.join("README.md")).map_err(failed)?;
        let leaving = targets(&readme).into_iter().filter(|target| !target.starts_with(['#']));
        for target in leaving.filter(|target| !target.starts_with("https://")) {
            problems.push(format!("README of {name}: {target} is not part of a registry's page"));
        }
        for path in packed::files(&packed.path)? {
            if path.extension().is_some_and(|kind| kind == "md" || kind == "toml") {
                let text = fs::read_to_string(&path).map_err(failed)?;
                for address in addresses(&text) {
                    count += 1;
                    if !pages.has_address(address) {
                        problems.push(format!("{}: there is no {address}", path.display()));
                    }
                }
            }
        }
        let pages_of_crate = built.join(name.replace('-', "_"));
        if !pages_of_crate.is_dir() {
            continue;
        }
        for path in packed::files(&pages_of_crate)? {
            if path.ends_with("index.html") {
                let text = fs::read_to_string(&path).map_err(failed)?;
                let folder = path.parent().unwrap_or(built);
                for link in references(&text) {
                    count += 1;
                    if !pages.has_link(&path, folder, link) {
                        problems.push(format!("{}: {link} leads nowhere", path.display()));
                    }
                }
            }
        }
    }
    // Fewer would mean that links aren't recognised.
    if count < 500 {
        problems.push(format!("only {count} links were found"));
    }
    Ok(problems)
}

/// Built pages, read once.
struct Pages<'a> {
    built: &'a Path,
    texts: BTreeMap<PathBuf, Option<String>>,
}

impl Pages<'_> {
    /// True when a page of the site is among those that were built, with its place.
    fn has_address(&mut self, address: &str) -> bool {
        let path = address.strip_prefix(SITE).unwrap_or(address);
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let is_ours = CRATES.iter().any(|of| of.name == name);
        match rest.strip_prefix("latest/") {
            Some(page) => is_ours && self.has(&self.built.join(page.split('#').next().unwrap_or(page)), page),
            None => is_ours && rest.is_empty(),
        }
    }

    /// True when a link of a page leads to another built page, or out of the documentation.
    fn has_link(&mut self, page: &Path, folder: &Path, link: &str) -> bool {
        if link.starts_with(SITE) && link[SITE.len()..].starts_with("metaq-") {
            return self.has_address(link);
        }
        // The pages themselves are built without those of other crates, and with a source of their own.
        if link.contains("://") || link.starts_with("data:") || link.contains("static.files/") {
            return true;
        }
        let path = link.split('#').next().unwrap_or(link);
        let target = if path.is_empty() { page.to_owned() } else { resolved(&folder.join(path)) };
        self.has(&target, link)
    }

    /// True when there is a page at `path`, with the place that `link` names behind `#`.
    fn has(&mut self, path: &Path, link: &str) -> bool {
        let place = link.split_once('#').map(|(_, place)| place);
        let text = self.texts.entry(path.to_owned()).or_insert_with_key(|path| fs::read_to_string(path).ok());
        let has_place = |text: &String| match place {
            // Lines of sources are numbered when they are shown.
            Some(place) if !path.to_string_lossy().contains("/doc/src/") => {
                text.contains(&format!("id=\"{place}\""))
            }
            _ => true,
        };
        text.as_ref().is_some_and(has_place)
    }
}

/// `path` without `..`.
fn resolved(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut resolved, part| {
        if part == Component::ParentDir {
            resolved.pop();
        } else {
            resolved.push(part)
        }
        resolved
    })
}

/// The targets of the links of a document, in place or by definition.
fn targets(text: &str) -> Vec<&str> {
    let in_place = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let is_definition = |line: &&str| line.starts_with('[');
    let definitions = text.lines().filter(is_definition).filter_map(|line| line.split_once("]: "));
    in_place.chain(definitions.map(|(_, target)| target)).collect()
}

/// The addresses of documentation of the crates of this workspace in a text.
fn addresses(text: &str) -> impl Iterator<Item = &str> {
    let ours = text.match_indices(SITE).filter(|(at, _)| text[at + SITE.len()..].starts_with("metaq-"));
    let ends = |character: char| character.is_whitespace() || [')', '"', '`', '>', ','].contains(&character);
    ours.map(move |(at, _)| text[at..].split(ends).next().unwrap_or_default())
}

/// The links of a page.
fn references(page: &str) -> impl Iterator<Item = &str> {
    let body = page.split_once("<main").map_or(page, |(_, body)| body);
    body.split(" href=\"").skip(1).filter_map(|rest| rest.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_documents_and_pages_are_found() {
        let text = "A [b](c.md) and [d], (https://docs.rs/metaq-x/latest/m/index.html#p).\n\n[d]: e.md\n";
        assert_eq!(targets(text), ["c.md", "e.md"]);
        let found: Vec<_> = addresses(text).collect();
        assert_eq!(found, ["https://docs.rs/metaq-x/latest/m/index.html#p"]);
        let page = "<a href=\"0\"><main><a class=\"x\" href=\"../a/b.html\"> <a href=\"#c\">";
        assert_eq!(references(page).collect::<Vec<_>>(), ["../a/b.html", "#c"]);
        assert_eq!(resolved(Path::new("/a/b/../c")), Path::new("/a/c"));
    }

    #[test]
    fn links_without_a_page_or_place_lead_nowhere() {
        let built = Path::new("/doc");
        let page = built.join("metaq_protocol/index.html");
        let texts = BTreeMap::from([
            (page.clone(), Some("<h2 id=\"frames\">".to_owned())),
            (built.join("metaq_protocol/guides/a.html"), None),
        ]);
        let mut pages = Pages { built, texts };
        let address = |path: &str| format!("{SITE}metaq-protocol{path}");
        assert!(pages.has_address(&address("")));
        assert!(pages.has_address(&address("/latest/metaq_protocol/index.html#frames")));
        assert!(!pages.has_address(&address("/latest/metaq_protocol/index.html#frame")));
        assert!(!pages.has_address(&address("/0.1.0/metaq_protocol/index.html")));
        assert!(!pages.has_address(&format!("{SITE}metaq-other")));
        let folder = built.join("metaq_protocol/guides");
        assert!(pages.has_link(&page, &folder, "../index.html#frames"));
        assert!(pages.has_link(&page, &folder, "#frames"));
        assert!(pages.has_link(&page, &folder, "https://example.org"));
        assert!(!pages.has_link(&page, &folder, "a.html"));
        assert!(!pages.has_link(&page, &folder, "#frame"));
    }
}
