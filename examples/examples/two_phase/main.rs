//! A database and a broker that agree, whatever crashes: orders go to SQLite and are announced by messages, in one
//! distributed transaction.
//!
//! ```text
//! cargo run --example two_phase
//! ```
//!
//! starts an embedded broker, and then itself again to sell: some sales succeed, some are killed (SIGKILL) on the way. Then it
//! starts itself once more to recover, and shows what database and broker hold.
//!
//! How it works: SQLite takes no part in distributed transactions itself, so it is asked last, and its own commit is the
//! decision:
//!
//! 1. The message is sent and prepared under a name that this attempt alone has. The broker shows it to nobody.
//! 2. One SQLite transaction stores the order, and that it was decided to commit.
//! 3. The broker is told to commit. The decision is kept until it has confirmed that.
//!
//! Whatever fails before 2 rolls the message back. Whoever starts after a crash asks the broker what is prepared, and the
//! database what was decided: what has no decision is rolled back, the rest is committed. A broker that doesn't know a
//! transaction that was decided has committed it before, or has forgotten it, as a restart can do: then the message is looked
//! for among those that are stored.
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

/// Says how far it has come; if this is where to stop, waits to be killed.
async fn reached(step: &str, stop_when: &str) {
    println!("{step}");
    // Nobody reads it any more otherwise.
    let _ = std::io::stdout().flush();
    if step == stop_when {
        std::future::pending::<()>().await;
    }
}

/// Starts this program again.
fn again(args: &[&str]) -> Done<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args(args).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn demonstrate() -> Done<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shop.db");
    let database = path.to_str().ok_or("the folder's name is no text")?;
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
        let mut child = again(&["sell", database, &address, order, stop_when])?;
        let mut steps = BufReader::new(child.stdout.take().ok_or("it has no output")?).lines();
        while let Some(step) = steps.next_line().await? {
            if step == stop_when {
                child.kill().await?;
            }
        }
        let status = child.wait().await?;
        println!("sold {order:?}: {status}");
    }
    let mut recovery = again(&["recover", database, &address])?;
    let mut lines = BufReader::new(recovery.stdout.take().ok_or("it has no output")?).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
    }
    recovery.wait().await?;

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
        _ => Err("usage: two_phase [sell DATABASE BROKER ORDER STEP | recover DATABASE BROKER | orders DATABASE BROKER]".into()),
    }
}
