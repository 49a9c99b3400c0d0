//! Examples of metaq; see `examples/` beside this folder.
