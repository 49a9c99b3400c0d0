//! The programs of the benchmarks, as processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// A null broker, which exits at the end of its input.
struct NullBroker {
    process: Child,
    addr: String,
}

impl NullBroker {
    fn start(topic: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_null-broker"));
        command.args(["--id", "3", "--topic", topic]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut addr = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut addr).unwrap();
        Self { process, addr: addr.trim().to_owned() }
    }
}

impl Drop for NullBroker {
    fn drop(&mut self) {
        // After a successful test it has exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a program, and parses the lines of its output as JSON.
fn lines(program: &str, args: &[&str]) -> Vec<Value> {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{program}: {errors}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_null_broker_ends_with_its_input() {
    let mut broker = NullBroker::start("t:2");
    let mut stream = TcpStream::connect(&broker.addr).unwrap();
    stream.write_all(b"put t 1 2 0 -1 9\r\nhi").unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"result 200 24 9");
    drop(broker.process.stdin.take());
    assert!(broker.process.wait().unwrap().success());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = Command::new(env!("CARGO_BIN_EXE_null-broker")).args(["--port", &port]).output().unwrap();
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains(&format!("can't serve on port {port}")), "{errors}");
}

#[test]
fn each_limit_is_measured() {
    // The program starts a null broker.
    let args = ["--sizes", "100,20000", "--windows", "1,64", "--millis", "20"];
    let limits = lines(env!("CARGO_BIN_EXE_raw-limits"), &args);
    let what: Vec<_> = limits.iter().map(|limit| limit["what"].as_str().unwrap()).collect();
    let of_a_size = ["pre-encoded", "no-async loop", "pre-encoded", "no-async loop", "ping-pong", "TCP"];
    assert_eq!(what, of_a_size.repeat(2));
    assert!(limits.iter().all(|limit| limit["msgs_per_s"].as_f64().unwrap() > 100.0), "{limits:?}");
    assert!(limits[4]["p50_us"].as_f64().unwrap() > 0.5, "{}", limits[4]);

    let broker = NullBroker::start("t:2");
    let args = ["--broker", &broker.addr, "--only", "loop", "--windows", "8", "--millis", "20"];
    let limits = lines(env!("CARGO_BIN_EXE_raw-limits"), &args);
    assert_eq!((limits.len(), &limits[0]["window"], &limits[0]["size"]), (1, &8.into(), &128.into()));
}

#[test]
fn every_task_sends_and_only_the_counting_program_counts() {
    let broker = NullBroker::start("t:2");
    let cluster = format!("meta://{}", broker.addr);
    for (program, counts) in [(env!("CARGO_BIN_EXE_tasks"), false), (env!("CARGO_BIN_EXE_allocations"), true)]
    {
        for threads in ["one", "many"] {
            let args = ["--cluster", &cluster, "--topic", "t", "--tasks", "20", "--threads", threads];
            let args = [&args[..], &["--millis", "300"]].concat();
            let figures = lines(program, &args).remove(0);
            let number = |key: &str| figures[key].as_f64().unwrap_or_else(|| panic!("{key} in {figures}"));
            assert_eq!((number("tasks"), number("failures")), (20.0, 0.0));
            assert_eq!(figures["threads"], threads);
            assert!(0.0 < number("fewest_per_task"), "{figures}");
            let (fewest, most) = (number("fewest_per_task") * 20.0, number("most_per_task") * 20.0);
            // The measurement takes a little longer than asked for.
            assert!(most >= number("msgs_per_s") * 0.3 * 0.99, "{figures}");
            assert!(fewest <= number("msgs_per_s") * 0.3 * 2.0, "{figures}");
            assert!(0.0 < number("p50_us") && number("p50_us") <= number("p99_us"), "{figures}");
            for key in ["allocations_per_msg", "alloc_bytes_per_msg"] {
                assert_eq!(figures[key].is_number(), counts, "{key} in {figures}");
            }
        }
    }
}
