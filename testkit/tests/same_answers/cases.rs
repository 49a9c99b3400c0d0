//! Requests to both brokers, and the intended differences of the embedded one.

mod transactions;

/// The topics of both brokers.
pub(crate) const TOPICS: [(&str, u32); 5] =
    [("test", 3), ("single", 1), ("dyn*", 2), ("closed", 2), ("empty", 1)];

/// The responses that a step waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// This number of responses.
    Answers(usize),
    /// The end of the connection, after any responses.
    Closed,
    /// Nothing: more input follows.
    Nothing,
    /// One response, which becomes one with this text when the request is repeated; the last one counts.
    Becomes(&'static str),
}

/// Requests, on one connection by default.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) steps: Vec<(Vec<u8>, Outcome)>,
    /// The connection of each step; the first one where it is left out.
    connections: Vec<usize>,
    /// The reason why the embedded broker differs, without the defects of the Java broker.
    pub(crate) differs: Option<&'static str>,
    /// The reason why it differs even with them.
    pub(crate) always: Option<&'static str>,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, steps: Vec<(Vec<u8>, Outcome)>) -> Self {
        Self { name: name.into(), steps, connections: Vec::new(), differs: None, always: None }
    }

    /// Sends each step over the connection with its number.
    fn over(mut self, connections: impl Into<Vec<usize>>) -> Self {
        self.connections = connections.into();
        assert_eq!(self.connections.len(), self.steps.len(), "{}", self.name);
        self
    }

    /// Returns the steps, each with the number of its connection.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&[u8], Outcome, usize)> {
        let connections = self.connections.iter().copied().chain(std::iter::repeat(0));
        self.steps
            .iter()
            .zip(connections)
            .map(|((request, outcome), connection)| (&request[..], *outcome, connection))
    }

    /// Marks a difference that disappears with the defects of the Java broker.
    fn but(mut self, reason: &'static str) -> Self {
        self.differs = Some(reason);
        self
    }

    /// Marks a difference that always remains.
    fn but_always(mut self, reason: &'static str) -> Self {
        (self.differs, self.always) = (Some(reason), Some(reason));
        self
    }
}

/// A request with one response.
pub(crate) fn ask(request: impl AsRef<[u8]>) -> (Vec<u8>, Outcome) {
    (request.as_ref().to_vec(), Outcome::Answers(1))
}

/// Requests in one write, with this number of responses.
fn many(answers: usize, requests: impl AsRef<[u8]>) -> (Vec<u8>, Outcome) {
    (requests.as_ref().to_vec(), Outcome::Answers(answers))
}

/// A request without a response.
pub(crate) fn silent(request: impl AsRef<[u8]>) -> (Vec<u8>, Outcome) {
    (request.as_ref().to_vec(), Outcome::Answers(0))
}

/// The beginning of a request.
fn part(request: impl AsRef<[u8]>) -> (Vec<u8>, Outcome) {
    (request.as_ref().to_vec(), Outcome::Nothing)
}

/// A request that ends the connection.
fn closes(request: impl AsRef<[u8]>) -> (Vec<u8>, Outcome) {
    (request.as_ref().to_vec(), Outcome::Closed)
}

/// Requests with one response each, each on a separate connection.
fn each<const N: usize>(name: &str, requests: [&str; N]) -> impl Iterator<Item = Case> {
    requests.into_iter().map(move |request| Case::new(format!("{name} {request:?}"), vec![ask(request)]))
}

/// Requests that end their connection.
fn each_closes<const N: usize>(name: &str, requests: [&str; N]) -> impl Iterator<Item = Case> {
    requests.into_iter().map(move |request| Case::new(format!("{name} {request:?}"), vec![closes(request)]))
}

pub(crate) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(each("stats of nothing", STATS));
    all.extend(puts());
    all.extend(gets());
    all.extend(each("other", OTHERS));
    all.extend(each_closes("malformed", MALFORMED));
    all.extend(streams());
    all.extend(defects());
    all.extend(transactions::local());
    all.extend(transactions::local_of_one_key());
    all.extend(transactions::xa());
    all.extend(each("stats of something", STATS));
    all.extend([transactions::batches(), transactions::late_messages()]);
    all
}

const STATS: [&str; 14] = [
    "stats  1\r\n",
    "stats\r\n",
    "stats topics 1\r\n",
    "stats offsets 1\r\n",
    "stats realtime 1\r\n",
    "stats help 1\r\n",
    "stats reset 1\r\n",
    "stats config 1\r\n",
    "stats test 1\r\n",
    "stats empty 1\r\n",
    "stats nope 1\r\n",
    "stats dyn* 1\r\n",
    "stats dynx 1\r\n",
    "stats 主题 1\r\n",
];

fn puts() -> impl Iterator<Item = Case> {
    each(
        "put",
        [
            "put test 0 5 0 -1 7\r\nhello",
            "put test 0 5 0 907060870 7\r\nhello",
            "put test 0 0 0 -1 7\r\n",
            "put test 0 0 0 0 7\r\n",
            "put test 0 0 0 1 7\r\n",
            "put test 1 9 1 1264772380 7\r\n\0\0\0\x04attr!",
            "put test 1 9 1 -1 7\r\n\0\0\0\x04attr!",
            "put test 1 5 1 -1 7\r\nhello",
            "put test 1 5 99 -1 7\r\nhello",
            "put test 1 5 -2147483648 -1 7\r\nhello",
            "put single -1 5 0 -1 7\r\nhello",
            "put single -1 5 0 -1 -2147483648\r\nhello",
            "put single -1 5 0 -1 2147483647\r\nhello",
            "put single +0 05 0 -1 +7\r\nhello",
            "put single 0 5 0 7\r\nhello",
            "put single 0 5 0 007 7\r\nhello",
            "put single 0 5 0 0907060870 7\r\nhello",
            "put single 0 5 0 ٩٠٧٠٦٠٨٧٠ 7\r\nhello",
            "put single 0 5 0 -1 7   \r\nhello",
            "put test 0 5 0 5 7\r\nhello",
            "put test 2 5 0 -2 7\r\nhello",
            "put test 3 5 0 -1 7\r\nhello",
            "put test -2 5 0 -1 7\r\nhello",
            "put test 2147483647 5 0 -1 7\r\nhello",
            "put nope 0 5 0 -1 7\r\nhello",
            "put nope -1 5 0 -1 7\r\nhello",
            "put nope 9 5 0 -1 7\r\nhello",
            "put Test 0 5 0 -1 7\r\nhello",
            "put  0 5 0 -1 7\r\nhello",
            "put 主题 0 5 0 -1 7\r\nhello",
            "put dynx 0 5 0 -1 7\r\nhello",
            "put dynx -1 5 0 -1 7\r\nhello",
            "put dynx 1 5 0 -1 7\r\nhello",
            "put dyn* 1 5 0 -1 7\r\nhello",
            "put dyn 0 5 0 -1 7\r\nhello",
            "put dyn主题 0 5 0 -1 7\r\nhello",
            "put xdyn 0 5 0 -1 7\r\nhello",
            "put closed 0 5 0 -1 7\r\nhello",
            "put closed 1 5 0 -1 7\r\nhello",
            "put closed 1 5 0 5 7\r\nhello",
            "put closed 2 5 0 -1 7\r\nhello",
            "put test 0 5 0 -1 TX:a:1 7\r\nhello",
            "put test 0 5 0 TX:a:1 7\r\nhello",
            "put test 0 5 0 -1 TX:a:1: 7\r\nhello",
            "put test 0 5 0 -1 XID:1:aa:bb:q 7\r\nhello",
            "put test 0 5 0 -1 XID:1:AA:b::  7\r\nhello",
            "put nope 0 5 0 -1 XID:1:aa:bb:q 7\r\nhello",
            "put test 0 5 0 -1 null 7\r\nhello",
        ],
    )
}

fn gets() -> impl Iterator<Item = Case> {
    each(
        "get",
        [
            "get test g 0 0 1000 1\r\n",
            "get test g 0 0 1 1\r\n",
            "get test g 0 0 10 1\r\n",
            "get test g 0 0 25 1\r\n",
            "get test g 0 25 26 1\r\n",
            "get test g 0 3 40 1\r\n",
            "get test g 0 89 1000 1\r\n",
            "get test g 0 90 1000 1\r\n",
            "get test g 0 91 1000 1\r\n",
            "get test g 0 1000 1000 1\r\n",
            "get test g 0 0 2147483647 1\r\n",
            "get test g 0 0 0 1\r\n",
            "get test g 0 0 -1 1\r\n",
            "get test g 0 -1 10 1\r\n",
            "get test g 0 -9223372036854775808 10 1\r\n",
            "get test g 0 9223372036854775807 10 1\r\n",
            "get test g 0 9223372036854775806 10 1\r\n",
            "get test g 0 9223372036854775807 0 1\r\n",
            "get test g 1 0 1000 1\r\n",
            "get test g 2 0 1000 1\r\n",
            "get test g 2 9223372036854775807 1000 1\r\n",
            "get test g 3 0 1000 1\r\n",
            "get test g -1 0 1000 1\r\n",
            "get test g 3 0 0 1\r\n",
            "get test  0 0 64 1\r\n",
            "get test g 0 0 64 1   \r\n",
            "get test g 0 0 64 1 9 9\r\n",
            "get empty g 0 0 64 1\r\n",
            "get nope g 0 0 64 1\r\n",
            "get 主题 g 0 0 64 1\r\n",
            "get dynx g 0 0 64 1\r\n",
            "get dyn* g 1 0 64 1\r\n",
            "get closed g 0 0 64 1\r\n",
            "get closed g 1 0 64 1\r\n",
            "get closed g 1 0 0 1\r\n",
            "get closed g 2 0 64 1\r\n",
            "offset test g 0 0 1\r\n",
            "offset test g 0 25 1\r\n",
            "offset test g 0 90 1\r\n",
            "offset test g 0 99999 1\r\n",
            "offset test g 0 9223372036854775807 1\r\n",
            "offset test g 0 -5 1\r\n",
            "offset test g 2 0 1\r\n",
            "offset test g 2 7 1\r\n",
            "offset test g 3 0 1\r\n",
            "offset test  0 0 1 5\r\n",
            "offset nope g 0 0 1\r\n",
            "offset empty g 0 0 1\r\n",
            "offset closed g 0 0 1\r\n",
            "offset closed g 1 0 1\r\n",
        ],
    )
}

const OTHERS: [&str; 14] = [
    "version 5\r\n",
    "version\r\n",
    "version +5\r\n",
    "version -2147483648\r\n",
    "version 5 6 7\r\n",
    "version 007\r\n",
    "version ١٢\r\n",
    "sync test 0 5 0 7 907060870 1\r\nhello",
    "sync test 0 5 0 7 1\r\nhello",
    "sync nope 9 0 0 7 1\r\n",
    "stats Topics 1\r\n",
    "stats topics 1 2 3\r\n",
    "stats 80\r\n",
    "stats\tx 1\r\n",
];

const MALFORMED: [&str; 62] = [
    "\r\n",
    " \r\n",
    "   \r\n",
    " version 1\r\n",
    "bogus\r\n",
    "bogus 1 2 3\r\n",
    "Version 5\r\n",
    "PUT test 0 5 0 -1 7\r\nhello",
    "version x\r\n",
    "version  5\r\n",
    "version 2147483648\r\n",
    "version 1.0\r\n",
    "version 1\nversion 2\r\n",
    "quit\r\n",
    "quit now please\r\n",
    "主 1\r\n",
    "put\r\n",
    "put test 0 5 0\r\nhello",
    "put test 0 5 0 -1 7 8 9\r\nhello",
    "put test 0 -1 0 -1 7\r\n",
    "put test 0 x 0 -1 7\r\n",
    "put test 0 2147483648 0 -1 7\r\n",
    "put test x 5 0 -1 7\r\nhello",
    "put test 0 5 x -1 7\r\nhello",
    "put test 0 5 0 x 7\r\nhello",
    "put test 0 5 0 -1 x\r\nhello",
    "put test 0 5 0 -1 2147483648\r\nhello",
    "put test 0 5 0 +5 7\r\nhello",
    "put test 0 5 0 12a 7\r\nhello",
    "put test 0 5 0  7\r\nhello",
    "put test 0 5 0 3421780262 7\r\nhello",
    "put test 0 5 0 -1 TX:a 7\r\nhello",
    "put test 0 5 0 -1 TX:a:b:1 7\r\nhello",
    "put test 0 5 0 -1 TX:a:2147483648 7\r\nhello",
    "put test 0 5 0 -1 XID:1:aa:bb 7\r\nhello",
    "put test 0 5 0 -1 XID:1:xx:bb:q 7\r\nhello",
    "put test 0 5 0 -1 tx:a:1 7\r\nhello",
    "puts test 0 5 0 1 7\r\nhello",
    "get test g 0 0 64\r\n",
    "get test g 0 0 x 1\r\n",
    "get test g x 0 64 1\r\n",
    "get test g 0 9223372036854775808 64 1\r\n",
    "get test g 0 0 2147483648 1\r\n",
    "gets test g 0 0 64 1\r\n",
    "offset test g 0 0\r\n",
    "offset test g 0 x 1\r\n",
    "stats a b\r\n",
    "stats test 99999999999\r\n",
    "stats  topics 1\r\n",
    "sync test 0 5 0 7\r\nhello",
    "sync test 0 5 0 x 1\r\nhello",
    "sunc test 0 5 0 7 1\r\nhello",
    "result 200 3\r\nabc",
    "result x 3 1\r\nabc",
    "value 3\r\nabc",
    "value -1 1\r\n",
    "transaction\r\n",
    "transaction TX:a:1 s BEGIN\r\n",
    "transaction TX:a:1 s begin 1\r\n",
    "transaction TX:a:1 s NOPE 1\r\n",
    "transaction TX:a:1 s BEGIN 99999999999 1\r\n",
    "transaction TX:a:1 s BEGIN 1 2 3 4\r\n",
];

fn streams() -> [Case; 8] {
    [
        Case::new("answers of a client are dropped", vec![ask("result 200 3 5\r\nabcversion 6\r\n")]),
        Case::new("and stretches of a log", vec![ask("value 3 5\r\nabcversion 6\r\n")]),
        Case::new(
            "puts in one write",
            vec![many(3, "put single 0 1 0 -1 1\r\naput nope 0 1 0 -1 2\r\nbversion 3\r\n")],
        ),
        Case::new(
            "answers before the fault",
            vec![closes("version 1\r\nversion 2\r\nbogus\r\nversion 3\r\n")],
        ),
        Case::new("answers before the end", vec![closes("version 1\r\nquit\r\nversion 2\r\n")]),
        Case::new("a put in pieces", vec![part("put test"), part(" 0 5 0 -1"), part(" 7\r\nhel"), ask("lo")]),
        Case::new("a line end in pieces", vec![part("version 5\r"), ask("\n")]),
        Case::new("two and a half", vec![part("version 1\r\nversion 2\r\nversio"), part("n "), ask("3\r\n")]),
    ]
}

/// Requests that the embedded broker handles alike only with the defects of the Java broker.
fn defects() -> Vec<Case> {
    let prefix = "words that only begin like a command are none";
    let waits = "a line that can't be right is refused before its body has come";
    let limits = "lines and bodies have limits";
    let long = format!("version 5 {}\r\n", "x".repeat(100_000));
    vec![
        Case::new("v is version", vec![ask("v 5\r\n")]).but(prefix),
        Case::new("vers is version", vec![ask("vers 5\r\n")]).but(prefix),
        Case::new("valu is version", vec![ask("valu 3 5\r\n")]).but(prefix),
        Case::new("\u{176} is version", vec![ask("\u{176} 5\r\n")]).but(prefix),
        Case::new("versions with nothing", vec![ask("versions\r\n")]).but(prefix),
        Case::new(
            "waits for the body of a bad partition",
            vec![part("put test x 5 0 -1 7\r\nhell"), closes("o")],
        )
        .but(waits),
        Case::new("waits for the body of too few words", vec![part("put test 0 5\r\nhell"), closes("o")])
            .but(waits),
        Case::new("waits for the body of a bad status", vec![part("result x 3 1\r\nab"), closes("c")])
            .but(waits),
        Case::new("waits for two gigabytes", vec![part("put test 0 2147483647 0 -1 7\r\n")]).but(limits),
        Case::new("a long line", vec![ask(long)]).but(limits),
        // Neither broker shows whether `quit` was meant.
        Case::new("q is quit", vec![closes("q\r\n")]),
        Case::new("qwerty is quit", vec![closes("qwerty 1 2\r\n")]),
    ]
}
