//! Sizes in bytes as text.

/// The number of bytes that `text` says: a whole number, with `KiB`, `MiB`, `GiB` (1024 to the power of 1, 2,
/// 3), `KB`, `MB`, `GB` (1000 to that), `B` or nothing behind it.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(|| "it is larger than any memory".to_owned())
}

fn wrong() -> String {
    "it has to be a whole number of bytes, KiB, MiB or GiB, such as 1048556, 512KiB or 64MiB".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let sizes = [
            ("0", 0),
            ("1048556", 1_048_556),
            ("1 KiB", 1024),
            (" 64MiB ", 64 << 20),
            ("2gib", 2 << 30),
            ("3B", 3),
            ("1KB", 1000),
            ("5 MB", 5_000_000),
            ("1GB", 1_000_000_000),
        ];
        for (text, size) in sizes {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1 parsec", "1M", "18446744073709551616", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
