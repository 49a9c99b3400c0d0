//! Keeps all processors busy until its input ends. It is meant to be run by `chrt --idle 0`: then it runs only where nothing
//! else does, and what wakes up finds a processor that needn't wake up first.

use std::{hint::spin_loop, io, thread};

fn main() -> io::Result<()> {
    let processors = thread::available_parallelism()?;
    for _ in 0..processors.get() {
        // They end with the process.
        thread::spawn(|| {
            loop {
                spin_loop();
            }
        });
    }
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
