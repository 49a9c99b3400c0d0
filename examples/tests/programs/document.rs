//! `examples/README.md`, by sections.

/// The document.
pub(crate) const README: &str = include_str!("../../README.md");

/// A section, which describes one example.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    /// The example's name, and the file that the heading links to.
    pub(crate) name: &'a str,
    pub(crate) file: &'a str,
    /// The command that runs it.
    pub(crate) command: &'a str,
    /// The output.
    pub(crate) output: &'a str,
}

/// Returns all sections, which have a heading of the form `## [name](file)`.
pub(crate) fn sections(document: &str) -> Vec<Section<'_>> {
    document.split("\n## [").skip(1).map(section_of).collect()
}

/// Returns the section of an example.
pub(crate) fn section(name: &str) -> Section<'static> {
    let found = sections(README).into_iter().find(|section| section.name == name);
    found.unwrap_or_else(|| panic!("examples/README.md has no section {name}"))
}

fn section_of(text: &str) -> Section<'_> {
    let (name, rest) = text.split_once("](").unwrap_or_else(|| panic!("no link in the heading: {text}"));
    let (file, body) = rest.split_once(")\n").unwrap_or_else(|| panic!("no link in the heading: {text}"));
    Section { name, file, command: block(body, "sh", name), output: block(body, "text", name) }
}

/// Returns the content of the only fenced block of this language.
fn block<'a>(body: &'a str, language: &str, name: &str) -> &'a str {
    let fence = format!("\n```{language}\n");
    let mut blocks = body.split(&fence).skip(1);
    let block = blocks.next().and_then(|rest| rest.split_once("\n```"));
    let (block, _) = block.unwrap_or_else(|| panic!("the section {name} has no block ```{language}"));
    assert!(blocks.next().is_none(), "the section {name} has several blocks ```{language}");
    block
}

#[test]
fn sections_have_a_command_and_an_output() {
    let text = "# A\n\n## [x](x.rs)\n\nWords.\n\n```sh\nrun x\n```\n\n```text\none\ntwo\n```\n\n## [y](y/main.rs)\n\n\
                ```sh\nrun y\n```\n\n```text\nthree\n```\n";
    let sections = sections(text);
    let shown: Vec<_> = sections
        .iter()
        .map(|section| (section.name, section.file, section.command, section.output))
        .collect();
    assert_eq!(shown, [("x", "x.rs", "run x", "one\ntwo"), ("y", "y/main.rs", "run y", "three")]);
}
