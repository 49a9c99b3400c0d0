//! The packed crates: what is in them, and where they are unpacked.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::{CRATES, Crate, VERSION};

/// The files that each crate has in its package, whatever links in the repository point at.
const TEXTS: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The fields that a registry shows or asks for.
const FIELDS: [&str; 7] =
    ["description", "documentation", "readme", "keywords", "categories", "license", "repository"];

/// The most keywords that crates.io takes.
const KEYWORDS: usize = 5;

/// A crate that is unpacked.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) of: Crate,
    /// The folder in the workspace.
    pub(super) folder: String,
    /// The folder from the root.
    pub(super) path: PathBuf,
    /// The size of the package.
    pub(super) bytes: u64,
    /// The manifest as it was packed.
    pub(super) manifest: String,
}

/// Unpacks the packages into a new folder, and checks what is in each.
pub(super) fn unpack(repository: &Path, packages: &Path, folder: &Path) -> Result<Vec<Packed>, String> {
    let failed = |error: io::Error| format!("unpacking into {}: {error}", folder.display());
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => fs::create_dir_all(folder).map_err(failed)?,
    }
    CRATES.iter().map(|of| unpack_one(*of, repository, packages, folder)).collect()
}

fn unpack_one(of: Crate, repository: &Path, packages: &Path, folder: &Path) -> Result<Packed, String> {
    let name = of.name;
    let unpacked = format!("{name}-{VERSION}");
    let package = packages.join(format!("{unpacked}.crate"));
    let failed = |error: io::Error| format!("{name}: {error}");
    // With the time of unpacking: by the time in the package, which is always the same, cargo would take
    // changed files for built ones.
    let mut tar = Command::new("tar");
    tar.arg("-xzmf").arg(&package).arg("-C").arg(folder);
    if !tar.status().map_err(failed)?.success() {
        return Err(format!("{} can't be unpacked", package.display()));
    }
    let path = folder.join(&unpacked);
    let manifest = fs::read_to_string(path.join("Cargo.toml")).map_err(failed)?;
    if let Some(problem) = problem_of_manifest(&manifest) {
        return Err(format!("{name}: {problem}"));
    }
    for text in TEXTS {
        // The licences are links to those of the repository.
        let of_crate = if text == "README.md" { of.folder } else { "" };
        let original = fs::read(repository.join(of_crate).join(text)).map_err(failed)?;
        if fs::read(path.join(text)).ok() != Some(original) {
            return Err(format!("{name}: {text} of the package is not that of the repository"));
        }
    }
    if let Some(wrong) = wrong_guide(repository, &path).map_err(failed)? {
        return Err(format!("{name}: {wrong} of the package is not the document of the repository"));
    }
    let bytes = fs::metadata(&package).map_err(failed)?.len();
    if let Some((dependency, features)) = of.left_out {
        let added =
            format!("\n[dev-dependencies.{dependency}]\nversion = \"*\"\nfeatures = [{features:?}]\n");
        fs::write(path.join("Cargo.toml"), format!("{manifest}{added}")).map_err(failed)?;
    }
    Ok(Packed { of, folder: unpacked, path, bytes, manifest })
}

/// Describes what is missing in a manifest as it was packed.
fn problem_of_manifest(manifest: &str) -> Option<String> {
    let (_, package) = manifest.split_once("[package]")?;
    let package = package.split("\n[").next().unwrap_or_default();
    let is_given = |field: &&str| package.contains(&format!("\n{field} = "));
    if let Some(field) = FIELDS.iter().find(|field| !is_given(field)) {
        return Some(format!("Cargo.toml has no {field}"));
    }
    let (_, keywords) = package.split_once("\nkeywords = [")?;
    let keywords = keywords.split(']').next().unwrap_or_default().split(',');
    let count = keywords.filter(|keyword| !keyword.trim().is_empty()).count();
    (count > KEYWORDS).then(|| format!("Cargo.toml has {count} keywords, and crates.io takes {KEYWORDS}"))
}

/// A guide in the package that has another text than the document: in a checkout without symbolic links, it
/// would be the path of the document.
fn wrong_guide(repository: &Path, path: &Path) -> io::Result<Option<String>> {
    let guides = path.join("guides");
    if !guides.is_dir() {
        return Ok(None);
    }
    for guide in fs::read_dir(guides)? {
        let guide = guide?;
        let name = guide.file_name();
        let document = if name == "repository.md" {
            repository.join("README.md")
        } else {
            repository.join("docs").join(&name)
        };
        if fs::read(guide.path())? != fs::read(document)? {
            return Ok(Some(name.display().to_string()));
        }
    }
    Ok(None)
}

/// All files below a folder.
pub(super) fn files(folder: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let (mut files, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_without_a_field_are_refused() {
        let fields = FIELDS.map(|field| format!("{field} = [\n    \"a\",\n]\n")).concat();
        let manifest =
            format!("# made\n[package]\nname = \"x\"\n{fields}\n[dependencies.a]\nversion = \"1\"\n");
        assert_eq!(problem_of_manifest(&manifest), None);
        for field in FIELDS {
            let without = manifest.replace(&format!("\n{field} = "), "\nother = ");
            assert_eq!(problem_of_manifest(&without), Some(format!("Cargo.toml has no {field}")));
        }
        let many = manifest.replace("keywords = [", &format!("keywords = [{}", "\"b\",".repeat(5)));
        assert_eq!(
            problem_of_manifest(&many).as_deref(),
            Some("Cargo.toml has 6 keywords, and crates.io takes 5")
        );
    }

    #[test]
    fn every_published_crate_is_checked() {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = xtask.parent().unwrap();
        let mut published = Vec::new();
        for entry in fs::read_dir(root).unwrap() {
            let folder = entry.unwrap();
            let Ok(manifest) = fs::read_to_string(folder.path().join("Cargo.toml")) else { continue };
            if !manifest.contains("\npublish = false\n") {
                published.push(folder.file_name().into_string().unwrap());
            }
        }
        published.sort();
        let mut checked = CRATES.map(|of| of.folder.to_owned());
        checked.sort();
        assert_eq!(published, checked);
    }
}
