//! A database and a broker that agree, whichever process crashes: orders are stored in SQLite and announced
//! by messages, in one distributed transaction.
//!
//! ```text
//! cargo run -p metaq-examples --features sqlite --example xa_sqlite
//! ```
//!
//! starts an embedded broker, and itself as child processes that sell: some sales succeed, some are killed
//! (SIGKILL) at a step. Then it starts itself once more to recover, and prints the contents of database and
//! broker.
//!
//! SQLite doesn't support distributed transactions, so it comes last, and its own commit is the decision:
//!
//! 1. The message is sent and prepared under a transaction id of this attempt alone. No consumer sees it yet.
//! 2. One SQLite transaction stores the order and the decision to commit.
//! 3. The broker commits. The decision is kept until the broker has confirmed that.
//!
//! A failure before step 2 rolls the message back. After a crash, recovery reads the prepared transactions
//! from the broker and the decisions from the database: transactions without a decision are rolled back, the
//! others are committed. If the broker doesn't know a transaction that was decided, it has committed it
//! before, or has lost it, as a restart can do: then recovery looks for the message among those that are
//! stored.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

mod read_back;
mod shop;

use std::{io::Write as _, path::Path, process::Stdio};

use metaq_testkit::Broker;
use shop::{Done, Shop};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Prints the step that was reached; at the step `stop_when`, waits for the kill.
async fn reached(step: &str, stop_when: &str) {
    println!("{step}");
    // A failure means that the parent process is gone.
    let _ = std::io::stdout().flush();
    if step == stop_when {
        std::future::pending::<()>().await;
    }
}

/// Starts this program as a child process.
fn start_self(args: &[&str]) -> Done<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args(args).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn demonstrate() -> Done<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shop.db");
    let database = path.to_str().ok_or("the folder's name is not UTF-8")?;
    let broker = Broker::builder().topic("orders", 2).start().await?;
    let address = broker.addr().to_string();
    for (order, stop_when) in [
        ("one cup", ""),
        ("killed when sent", "sent"),
        ("killed when prepared", "prepared"),
        ("two cups", ""),
        ("killed when decided", "decided"),
        ("killed when committed", "committed"),
    ] {
        let mut child = start_self(&["sell", database, &address, order, stop_when])?;
        let mut steps = BufReader::new(child.stdout.take().ok_or("it has no output")?).lines();
        while let Some(step) = steps.next_line().await? {
            if step == stop_when {
                child.kill().await?;
            }
        }
        let status = child.wait().await?;
        println!("sold {order:?}: {status}");
    }
    let mut recovery = start_self(&["recover", database, &address])?;
    let mut lines = BufReader::new(recovery.stdout.take().ok_or("it has no output")?).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
    }
    recovery.wait().await?.success().then_some(()).ok_or("the recovery failed")?;

    let orders = Shop::open(&path, &address).await?.orders()?;
    let mut announced: Vec<_> = broker.messages("orders").into_iter().map(|stored| stored.payload).collect();
    announced.sort_unstable();
    println!("in the database: {}", orders.join(", "));
    println!(
        "at the broker:   {}",
        announced.iter().map(|payload| String::from_utf8_lossy(payload)).collect::<Vec<_>>().join(", ")
    );
    assert!(
        orders.iter().map(String::as_bytes).eq(announced.iter().map(|payload| &payload[..])),
        "they agree"
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Done<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => demonstrate().await,
        ["sell", database, broker, order, stop_when] => {
            let mut shop = Shop::open(Path::new(database), broker).await?;
            shop.sell(order, |step| reached(step, stop_when)).await
        }
        ["recover", database, broker] => {
            let is_done = Shop::open(Path::new(database), broker).await?.recover().await?;
            println!("{}", if is_done { "nothing is left" } else { "something is left" });
            Ok(())
        }
        ["orders", database, broker] => {
            println!("{}", Shop::open(Path::new(database), broker).await?.orders()?.join("\n"));
            Ok(())
        }
        _ => Err("usage: xa_sqlite [sell DATABASE BROKER ORDER STEP | recover DATABASE BROKER | orders DATABASE BROKER]".into()),
    }
}
