//! Writes the recorded cases of `tests/vectors` as seeds into `../corpus`.

use std::{fs, path::Path};

use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, key, targets) in [
        ("decode", "bytes", &["decode_as_broker", "decode_as_client"][..]),
        ("encode", "bytes", &["decode_as_broker", "decode_as_client"][..]),
        ("message", "buffer", &["stored_messages"][..]),
    ] {
        let text = fs::read_to_string(root.join("../tests/vectors").join(file).with_extension("jsonl"))?;
        let mut written = 0;
        for line in text.lines() {
            let case: Value = serde_json::from_str(line)?;
            let (Some(id), Some(hex)) = (case["id"].as_str(), case[key].as_str()) else {
                continue;
            };
            // The first byte selects how the rest is split into pieces.
            let mut seed = vec![7];
            for at in (0..hex.len()).step_by(2) {
                seed.push(u8::from_str_radix(&hex[at..at + 2], 16)?);
            }
            for target in targets {
                let folder = root.join("corpus").join(target);
                fs::create_dir_all(&folder)?;
                fs::write(folder.join(id), &seed)?;
                written += 1;
            }
        }
        println!("{file}: {written} seeds");
    }
    Ok(())
}
