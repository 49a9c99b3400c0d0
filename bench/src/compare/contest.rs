//! The rounds.

use std::time::{Duration, Instant};

use super::{
    Result,
    figures::Figures,
    java::Java,
    machine, metaq,
    plan::{self, Case, Plan, Target},
    say,
    stage::Stage,
};
use crate::{
    limits::Limit,
    tasks::{TaskFigures, Threads},
};

/// How long a limit is measured, in milliseconds.
const LIMIT_MILLIS: u64 = 300;

/// One case: what each round of each client gave.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) java: Vec<Figures>,
    pub(super) metaq: Vec<Figures>,
    /// Without a runtime; one at a time when only one is in flight.
    pub(super) raw: Vec<Limit>,
}

/// So many tasks that send one message at a time each.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) tasks: u32,
    pub(super) threads: Threads,
    pub(super) rounds: Vec<TaskFigures>,
}

/// All that was measured.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) plan: Plan,
    pub(super) machine: Vec<(&'static str, String)>,
    pub(super) rows: Vec<Row>,
    pub(super) limits: Vec<Limit>,
    pub(super) tasks: Vec<TaskRow>,
    pub(super) allocations: Vec<TaskFigures>,
    pub(super) took: Duration,
}

pub(super) struct Contest<'a> {
    stage: &'a Stage,
    plan: Plan,
}

impl<'a> Contest<'a> {
    pub(super) fn new(stage: &'a Stage, plan: Plan) -> Self {
        Self { stage, plan }
    }

    pub(super) fn run(self) -> Result<Results> {
        let (begun, mut machine, load) = (Instant::now(), machine::facts(), machine::load());
        let limits = self.limits()?;
        self.warm_up_the_broker()?;
        let rows = self.plan.cases.iter().map(|case| self.case(*case)).collect::<Result<Vec<_>>>()?;
        let tasks = self.tasks()?;
        let allocations = self.allocations()?;
        let load =
            format!("{load} before the run, {} at its end, of which 2 to 3 are its own", machine::load());
        machine.push(("load", load));
        Ok(Results { plan: self.plan, machine, rows, limits, tasks, allocations, took: begun.elapsed() })
    }

    /// Java and Rust and nothing but the bytes, in turns.
    fn case(&self, case: Case) -> Result<Row> {
        let Self { stage, plan } = self;
        say(&format!("{case}: warming Java up"));
        let _awake = case.awake.then(|| stage.keep_awake()).transpose()?;
        let mut java = Java::start(stage, case)?;
        let mut rate = java.round(plan::FEWEST.max(2 * case.window as u64))?.msgs_per_s;
        for _ in 0..plan.warm_up {
            rate = java.round(plan::messages(rate, plan.warm_up_round, case))?.msgs_per_s;
        }
        let java_messages = plan.messages(rate, case);
        let program = stage.program("metaq");
        let trial = metaq::round(stage, &program, case, plan.messages(rate / 4.0, case))?;
        let metaq_messages = plan.messages(trial.msgs_per_s, case);
        let mut row = Row { case, java: Vec::new(), metaq: Vec::new(), raw: Vec::new() };
        let what = if case.window == 1 { "ping-pong" } else { "loop" };
        for _ in 0..plan.rounds {
            let (java, metaq) =
                (java.round(java_messages)?, metaq::round(stage, &program, case, metaq_messages)?);
            let raw = metaq::limit(stage, case, what, LIMIT_MILLIS)?;
            say(&format!(
                "{case}: Java {:.0}/s, metaq {:.0}/s, raw {:.0}/s",
                java.msgs_per_s, metaq.msgs_per_s, raw.msgs_per_s
            ));
            row.java.push(java);
            row.metaq.push(metaq);
            row.raw.push(raw);
        }
        Ok(row)
    }

    /// The real broker is a Java program, too.
    fn warm_up_the_broker(&self) -> Result<()> {
        if let Some(case) = self.plan.cases.iter().find(|case| case.target == Target::Real) {
            say("warming the real broker up");
            let case = Case { window: 1024, awake: false, ..*case };
            metaq::limit(self.stage, case, "loop", (self.plan.round * 4).as_millis() as u64)?;
        }
        Ok(())
    }

    /// What was made beforehand, for each case of the null broker, and what TCP carries, for each size.
    fn limits(&self) -> Result<Vec<Limit>> {
        let mut limits = Vec::<Limit>::new();
        for case in self.plan.cases.iter().filter(|case| case.target == Target::Null && !case.awake) {
            say(&format!("{case}: the limits of the machine"));
            if !limits.iter().any(|limit| limit.size == case.size) {
                limits.push(metaq::limit(self.stage, *case, "tcp", LIMIT_MILLIS)?);
            }
            if case.window > 1 {
                limits.push(metaq::limit(self.stage, *case, "pre-encoded", LIMIT_MILLIS)?);
            }
        }
        Ok(limits)
    }

    fn tasks(&self) -> Result<Vec<TaskRow>> {
        let mut rows = Vec::new();
        for &tasks in &self.plan.tasks {
            for threads in [Threads::One, Threads::Many] {
                let mut rounds = Vec::new();
                for _ in 0..self.plan.rounds {
                    let round = self.task_round("tasks", tasks, threads)?;
                    say(&format!("{tasks} tasks, threads: {threads:?}: metaq {:.0}/s", round.msgs_per_s));
                    rounds.push(round);
                }
                rows.push(TaskRow { tasks, threads, rounds });
            }
        }
        Ok(rows)
    }

    fn allocations(&self) -> Result<Vec<TaskFigures>> {
        [Threads::One, Threads::Many]
            .into_iter()
            .map(|threads| self.task_round("allocations", 1024, threads))
            .collect()
    }

    fn task_round(&self, program: &str, tasks: u32, threads: Threads) -> Result<TaskFigures> {
        let case = Case { target: Target::Null, size: 128, window: tasks as usize, awake: false };
        metaq::tasks(self.stage, program, case, threads, self.plan.round.as_millis() as u64)
    }
}
