//! Keeps all processors busy until its input ends. Run it with `chrt --idle 0`: then it runs only on
//! processors that are otherwise idle, and a thread that wakes up finds a processor that is already awake.

use std::{hint::spin_loop, io, thread};

fn main() -> io::Result<()> {
    let processors = thread::available_parallelism()?;
    for _ in 0..processors.get() {
        // The threads end with the process.
        thread::spawn(|| {
            loop {
                spin_loop();
            }
        });
    }
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
