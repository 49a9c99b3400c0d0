//! Tests of [`Output`] over pipes.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use super::*;

/// An output into a pipe, and the reading end of the pipe.
fn pipe() -> (Output, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    (Output::new(File::from(std::os::fd::OwnedFd::from(writer))).unwrap(), reader)
}

fn add(output: &mut Output, line: usize) {
    writeln!(output.text(), "{line:099}").unwrap();
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it completes")
}

/// Adds lines until there is no capacity, and the thread waits for the reader. Returns their number.
async fn fill(output: &mut Output) -> usize {
    let mut lines = 0;
    loop {
        while output.has_capacity() {
            add(output, lines);
            lines += 1;
        }
        let blocked = async {
            while output.shared.written.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        in_time(blocked).await;
        if tokio::time::timeout(Duration::from_millis(200), output.changed()).await.is_err() {
            return lines;
        }
    }
}

#[tokio::test]
async fn everything_is_written_in_order() {
    let (mut output, mut reader) = pipe();
    let reading = thread::spawn(move || {
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        read
    });
    for line in 0..50_000 {
        add(&mut output, line);
        if line % 777 == 0 {
            output.flush();
        }
        while !output.has_capacity() {
            in_time(output.changed()).await;
        }
    }
    in_time(output.written()).await;
    assert!(!output.has_failed());
    drop(output);
    let read = reading.join().unwrap();
    let lines: Vec<usize> = read.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines, (0..50_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn unread_text_is_bounded_and_counted_line_by_line() {
    let (mut output, mut reader) = pipe();
    let lines = fill(&mut output).await;
    assert!(lines * 100 < 3 * MAX_WAITING, "{lines} lines");
    assert!(tokio::time::timeout(Duration::from_millis(50), output.written()).await.is_err());
    output.give_up(io::ErrorKind::TimedOut.into());
    in_time(output.written()).await;
    in_time(output.changed()).await;
    let unwritten = output.take_unwritten();
    assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::TimedOut);
    assert!(output.take_failure().is_none() && output.has_failed());
    // The blocked write may still succeed, for one piece at most.
    let mut read = vec![0; 1 << 20];
    let length = reader.read(&mut read).unwrap();
    let read = read[..length].iter().filter(|byte| **byte == b'\n').count();
    let unwritten: Vec<usize> =
        str::from_utf8(&unwritten).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(unwritten.last(), Some(&(lines - 1)));
    assert_eq!(unwritten.len(), lines - unwritten[0], "one after another");
    assert_eq!(unwritten[0], read, "the first that was not written");
}

#[tokio::test]
async fn capacity_returns_when_the_reader_reads() {
    let (mut output, mut reader) = pipe();
    fill(&mut output).await;
    let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
    while !output.has_capacity() {
        in_time(output.changed()).await;
    }
    in_time(output.written()).await;
    drop(output);
    reading.join().unwrap();
}

#[tokio::test]
async fn changed_hands_over_text_that_was_refused_before() {
    let (mut output, mut reader) = pipe();
    let mut lines = 0;
    while output.collected.is_empty() {
        add(&mut output, lines);
        lines += 1;
        output.flush();
    }
    assert!(output.has_capacity());
    let (all_read, is_read) = tokio::sync::oneshot::channel();
    let reading = thread::spawn(move || {
        let mut read = vec![0; 100 * lines];
        reader.read_exact(&mut read).unwrap();
        all_read.send(()).unwrap();
    });
    // There is capacity all the time, so only `changed` can hand the text over.
    let waiting = async {
        loop {
            output.changed().await;
        }
    };
    in_time(async { tokio::select!(() = waiting => {}, read = is_read => read.unwrap()) }).await;
    reading.join().unwrap();
}

#[tokio::test]
async fn changed_completes_when_writing_fails() {
    let (mut output, reader) = pipe();
    drop(reader);
    add(&mut output, 7);
    output.flush();
    in_time(output.changed()).await;
    assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
    add(&mut output, 8);
    output.flush();
    let lines = [7, 8].map(|line| format!("{line:099}\n")).concat();
    assert_eq!(output.take_unwritten(), lines.into_bytes());
    assert!(output.take_unwritten().is_empty());
}

#[tokio::test]
async fn a_full_disk_is_a_failure() {
    let mut output = Output::new(File::options().write(true).open("/dev/full").unwrap()).unwrap();
    add(&mut output, 1);
    in_time(output.written()).await;
    assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::StorageFull);
    assert_eq!(output.take_unwritten().len(), 100);
}
