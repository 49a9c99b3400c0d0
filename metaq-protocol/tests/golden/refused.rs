//! Cases that are refused on purpose although Java accepts them. `run.rs` checks that the table is exact: no
//! other case is refused, and no case in it is accepted.

/// Refused cases of one category, with the reason.
pub(crate) struct Refusal {
    pub(crate) file: &'static str,
    pub(crate) category: &'static str,
    pub(crate) cases: &'static [&'static str],
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) fn lists(&self, id: &str, category: &str) -> bool {
        self.category == category && self.cases.contains(&id)
    }
}

pub(crate) const REFUSED: &[Refusal] = &[
    Refusal {
        file: "body",
        category: "xa-answer",
        cases: &["body-0011", "body-0015"],
        reason: "Java stumbles over the answer (a code beyond i32, no text at all) and reports its own exception, code -7; we report the broker's text with the code that Java gives to texts without one",
    },
    Refusal {
        file: "broker",
        category: "parse",
        cases: &["broker-0016", "broker-0017", "broker-0026", "broker-0034"],
        reason: "no port, or one that nobody can connect to: Java keeps -1, 0 or 99999",
    },
    Refusal {
        file: "broker",
        category: "parse",
        cases: &["broker-0019", "broker-0021", "broker-0023", "broker-0027"],
        reason: "no host can be found: Java keeps null without an error and fails when it prints the broker",
    },
    Refusal {
        file: "broker",
        category: "format",
        cases: &["broker-0055", "broker-0056"],
        reason: "an empty host",
    },
    Refusal {
        file: "decode",
        category: "waits-before-refusing",
        cases: &[
            "decode-0622",
            "decode-0623",
            "decode-0624",
            "decode-0625",
            "decode-0626",
            "decode-0627",
            "decode-0628",
            "decode-0629",
            "decode-0630",
            "decode-0631",
        ],
        reason: "Java waits for the body of a header line that it refuses whatever the body is; we refuse at once",
    },
    Refusal {
        file: "decode",
        category: "verbs",
        cases: &[
            "decode-0683",
            "decode-0684",
            "decode-0685",
            "decode-0686",
            "decode-0687",
            "decode-0688",
            "decode-0689",
            "decode-0690",
        ],
        reason: "Java takes any word that starts with v for version, with q for quit; we want the word",
    },
    Refusal {
        file: "decode",
        category: "blanks",
        cases: &["decode-0706"],
        reason: "the same: the word is version, a tab and 5",
    },
    Refusal {
        file: "decode",
        category: "line-ends",
        cases: &["decode-0728"],
        reason: "the same: the word is version, a lone CR and 5",
    },
    Refusal {
        file: "decode",
        category: "long-line",
        cases: &["decode-0739"],
        reason: "the same: the word is 8,000 times v",
    },
    Refusal {
        file: "decode",
        category: "damaged",
        cases: &["decode-0777", "decode-0804"],
        reason: "the same: the words are val.e and versin",
    },
    Refusal {
        file: "decode",
        category: "line-ends",
        cases: &["decode-0730"],
        reason: "Java waits for the body of a header line that it will refuse, as in waits-before-refusing",
    },
    Refusal {
        file: "decode",
        category: "damaged",
        cases: &["decode-0791", "decode-0796"],
        reason: "Java waits for the body of a header line that it will refuse, as in waits-before-refusing",
    },
    Refusal {
        file: "encode",
        category: "unsafe-name",
        cases: &["encode-0333", "encode-0334", "encode-0335", "encode-0336", "encode-0337"],
        reason: "Java writes a space or a line end inside a name, which puts the stream out of step",
    },
    Refusal {
        file: "encode",
        category: "unsafe-tx",
        cases: &["encode-0338", "encode-0340"],
        reason: "Java writes a session or a qualifier with a colon, and no peer can read the id",
    },
    Refusal {
        file: "encode",
        category: "unsafe-tx",
        cases: &["encode-0339"],
        reason: "Java writes a local number beyond i32 and can't read it back",
    },
    Refusal {
        file: "encode",
        category: "unsafe-tx",
        cases: &["encode-0341"],
        reason: "Java writes a missing qualifier as the four letters null",
    },
    Refusal {
        file: "encode",
        category: "unsafe-tx",
        cases: &["encode-0342"],
        reason: "a qualifier of digits only without a timeout is read as a timeout",
    },
    Refusal {
        file: "encode",
        category: "unsafe-tx",
        cases: &["encode-0343", "encode-0344"],
        reason: "Java writes a space inside a qualifier or a session",
    },
    Refusal {
        file: "txid",
        category: "good",
        cases: &["txid-0039", "txid-0052"],
        reason: "an id with a space is text that no command line can carry, so a command with it couldn't be written",
    },
    Refusal {
        file: "txid",
        category: "damaged",
        cases: &["txid-0101"],
        reason: "the same: a qualifier with a space",
    },
    Refusal {
        file: "txid",
        category: "qualifier",
        cases: &["txid-0129", "txid-0130"],
        reason: "Java formats a qualifier with a colon or a space, and no peer can read the id",
    },
    Refusal {
        file: "txid",
        category: "format",
        cases: &["txid-0102", "txid-0112"],
        reason: "Java formats a local number beyond i32 and can't read it back",
    },
];
