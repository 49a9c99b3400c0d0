//! The spool, measured: beside the plain producer, while no broker is there, opened again, and replayed.

use std::{
    collections::VecDeque,
    env,
    error::Error,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::Parser;
use metaq_bench::null_broker::{self, Identity};
use metaq_producer::{Message, Producer, Topic};
use metaq_spool::{Fsync, SpoolOptions, SpoolingProducer};

/// Measures the spool with a broker that stores nothing.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// The number of messages of each measurement
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// The bytes of a message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// The folder in which spools are made, and removed afterwards
    #[arg(long, default_value = "target/spool-bench")]
    folder: PathBuf,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "healthy,spooling,open,replay")]
    only: Vec<String>,
    /// Fills a folder, and kills itself; for this program
    #[arg(long, hide = true)]
    fill: bool,
}

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// The handles that are kept before the oldest is awaited.
const WINDOW: usize = 4096;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(Args::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("spool: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Done {
    if args.fill {
        let spool = open(None, &args.folder, Fsync::Never).await?;
        fill(&spool, &args).await?;
        // What `kill -9` does: nothing is closed.
        let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
        return Ok(());
    }
    let is_meant = |name: &str| args.only.iter().any(|only| only == name);
    if is_meant("healthy") {
        healthy(&args).await?;
    }
    if is_meant("spooling") {
        for fsync in [Fsync::Never, Fsync::Interval(Duration::from_millis(10)), Fsync::Each] {
            spooling(&args, fsync).await?;
        }
    }
    if is_meant("open") {
        reopen(&args).await?;
    }
    if is_meant("replay") {
        replay(&args).await?;
    }
    Ok(())
}

fn say(line: &str) {
    // A reader that is gone needs no figures.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn topic() -> Done<Topic> {
    Ok("bench".parse()?)
}

fn message(args: &Args, topic: &Topic) -> Message {
    Message::new(topic.clone(), vec![b'x'; args.size])
}

/// A producer for the null broker, or for one that is not there.
fn producer(port: Option<u16>) -> Done<Producer> {
    let addr = format!("meta://127.0.0.1:{}", port.unwrap_or(1));
    Ok(Producer::builder().broker(addr.parse()?).build()?)
}

async fn open(port: Option<u16>, folder: &Path, fsync: Fsync) -> Done<SpoolingProducer> {
    let mut options = SpoolOptions::new(folder);
    options.fsync = fsync;
    (options.max_messages, options.max_bytes) = (u64::MAX, u64::MAX);
    let spool = SpoolingProducer::open(producer(port)?, options).await?;
    // Without a broker it is published later.
    let _ = spool.publish_topic(&topic()?).await;
    Ok(spool)
}

fn null_broker() -> Done<u16> {
    Ok(null_broker::start(0, Identity::new(0, vec![("bench".to_owned(), 4)]))?.port())
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The plain producer and the spooling one in turns.
async fn healthy(args: &Args) -> Done {
    let port = null_broker()?;
    let plain = producer(Some(port))?;
    let topic = topic()?;
    plain.publish_topic(&topic).await?;
    let folder = args.folder.join("healthy");
    let spool = open(Some(port), &folder, Fsync::Each).await?;
    let message = message(args, &topic);
    let (mut rates, mut handles) = ([Vec::new(), Vec::new()], VecDeque::new());
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..args.messages {
            if handles.len() == WINDOW
                && let Some(handle) = handles.pop_front()
            {
                let handle: metaq_producer::SendHandle = handle;
                handle.await?;
            }
            handles.push_back(plain.enqueue(message.clone()).await?);
        }
        for handle in handles.drain(..) {
            handle.await?;
        }
        rates[0].push(rate(args.messages, began.elapsed()));
        let began = Instant::now();
        fill(&spool, args).await?;
        rates[1].push(rate(args.messages, began.elapsed()));
    }
    let [plain, spooling] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    say(&format!(
        "healthy: plain {plain:.0}/s, spooling {spooling:.0}/s, {:+.1} % (medians of 5)",
        (spooling / plain - 1.0) * 100.0
    ));
    spool.close(Duration::from_secs(5)).await;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

async fn fill(spool: &SpoolingProducer, args: &Args) -> Done {
    let message = message(args, &topic()?);
    let mut handles = VecDeque::new();
    for _ in 0..args.messages {
        if handles.len() == WINDOW
            && let Some(handle) = handles.pop_front()
        {
            let handle: metaq_spool::SpoolHandle = handle;
            handle.await?;
        }
        handles.push_back(spool.enqueue(message.clone()).await?);
    }
    for handle in handles {
        handle.await?;
    }
    Ok(())
}

async fn spooling(args: &Args, fsync: Fsync) -> Done {
    let folder = args.folder.join("spooling");
    let spool = open(None, &folder, fsync).await?;
    let began = Instant::now();
    fill(&spool, args).await?;
    say(&format!("spooling, {fsync:?}: {:.0}/s, memory {}", rate(args.messages, began.elapsed()), memory()));
    spool.close(Duration::ZERO).await;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A folder that was closed, and one whose process was killed.
async fn reopen(args: &Args) -> Done {
    let folder = args.folder.join("open");
    let mut child = Command::new(env::current_exe()?);
    child.arg("--fill").arg("--folder").arg(&folder);
    child.args(["--messages", &args.messages.to_string(), "--size", &args.size.to_string()]).status()?;
    for after in ["kill -9", "close"] {
        let began = Instant::now();
        let spool = SpoolingProducer::open(producer(None)?, SpoolOptions::new(&folder)).await?;
        let took = began.elapsed();
        let stats = spool.stats();
        say(&format!("open after {after}: {took:.1?} with {} messages, memory {}", stats.waiting, memory()));
        spool.close(Duration::ZERO).await;
    }
    Ok(())
}

/// Replays what [`reopen`] has left, or what is spooled here.
async fn replay(args: &Args) -> Done {
    let folder = args.folder.join("open");
    if !folder.exists() {
        let spool = open(None, &folder, Fsync::Never).await?;
        fill(&spool, args).await?;
        spool.close(Duration::ZERO).await;
    }
    let port = null_broker()?;
    let began = Instant::now();
    let spool = open(Some(port), &folder, Fsync::Never).await?;
    let left = spool.drain(Duration::from_secs(600)).await;
    let stats = spool.stats();
    let rate = rate(stats.replayed, began.elapsed());
    say(&format!("replay: {rate:.0}/s, {} messages, {left} left, memory {}", stats.replayed, memory()));
    spool.close(Duration::ZERO).await;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The largest resident size of this process so far.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}
