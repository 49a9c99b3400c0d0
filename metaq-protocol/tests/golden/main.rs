//! Every case that was recorded from the Java classes of MetaQ 1.4.6.2 (`tests/vectors/README.md`).

mod bodies;
mod decode;
mod encode;
mod fields;
mod messages;
mod names;
mod refused;
mod run;
