//! The rounds of all clients.

use std::time::{Duration, Instant};

use super::{
    Result,
    environment::Environment,
    figures::Figures,
    java::Java,
    machine, metaq,
    plan::{self, Case, Plan, Target},
    print_message,
};
use crate::{
    limits::Limit,
    tasks::{TaskFigures, Threads},
};

/// The duration of measuring a limit, in milliseconds.
const LIMIT_MILLIS: u64 = 300;

/// The figures of one case, for each round of each client.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) java: Vec<Figures>,
    pub(super) metaq: Vec<Figures>,
    /// The client without a runtime; a ping-pong if only one message is in flight.
    pub(super) raw: Vec<Limit>,
}

/// The figures of a number of tasks that send one message at a time each.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) tasks: u32,
    pub(super) threads: Threads,
    pub(super) rounds: Vec<TaskFigures>,
}

/// The results of the whole comparison.
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

/// A comparison of all clients in one environment.
pub(super) struct Comparison<'a> {
    environment: &'a Environment,
    plan: Plan,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(environment: &'a Environment, plan: Plan) -> Self {
        Self { environment, plan }
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

    /// Measures Java, metaq and the raw client in turns.
    fn case(&self, case: Case) -> Result<Row> {
        let Self { environment, plan } = self;
        print_message(&format!("{case}: warming Java up"));
        let _awake = case.awake.then(|| environment.keep_awake()).transpose()?;
        let mut java = Java::start(environment, case)?;
        let mut rate = java.round(plan::MIN_MESSAGES.max(2 * case.window as u64))?.msgs_per_s;
        for _ in 0..plan.warm_up {
            rate = java.round(plan::messages(rate, plan.warm_up_round, case))?.msgs_per_s;
        }
        let java_messages = plan.messages(rate, case);
        let program = environment.program("metaq");
        let trial = metaq::round(environment, &program, case, plan.messages(rate / 4.0, case))?;
        let metaq_messages = plan.messages(trial.msgs_per_s, case);
        let mut row = Row { case, java: Vec::new(), metaq: Vec::new(), raw: Vec::new() };
        let what = if case.window == 1 { "ping-pong" } else { "loop" };
        for _ in 0..plan.rounds {
            let (java, metaq) =
                (java.round(java_messages)?, metaq::round(environment, &program, case, metaq_messages)?);
            let raw = metaq::limit(environment, case, what, LIMIT_MILLIS)?;
            print_message(&format!(
                "{case}: Java {:.0}/s, metaq {:.0}/s, raw {:.0}/s",
                java.msgs_per_s, metaq.msgs_per_s, raw.msgs_per_s
            ));
            row.java.push(java);
            row.metaq.push(metaq);
            row.raw.push(raw);
        }
        Ok(row)
    }

    /// Warms the real broker up, since it is a Java program, too.
    fn warm_up_the_broker(&self) -> Result<()> {
        if let Some(case) = self.plan.cases.iter().find(|case| case.target == Target::Real) {
            print_message("warming the real broker up");
            let case = Case { window: 1024, awake: false, ..*case };
            metaq::limit(self.environment, case, "loop", (self.plan.round * 4).as_millis() as u64)?;
        }
        Ok(())
    }

    /// Measures puts encoded in advance, for each case of the null broker, and TCP alone, for each size.
    fn limits(&self) -> Result<Vec<Limit>> {
        let mut limits = Vec::<Limit>::new();
        for case in self.plan.cases.iter().filter(|case| case.target == Target::Null && !case.awake) {
            print_message(&format!("{case}: the limits of the machine"));
            if !limits.iter().any(|limit| limit.size == case.size) {
                limits.push(metaq::limit(self.environment, *case, "tcp", LIMIT_MILLIS)?);
            }
            if case.window > 1 {
                limits.push(metaq::limit(self.environment, *case, "pre-encoded", LIMIT_MILLIS)?);
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
                    print_message(&format!(
                        "{tasks} tasks, threads: {threads:?}: metaq {:.0}/s",
                        round.msgs_per_s
                    ));
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
        metaq::tasks(self.environment, program, case, threads, self.plan.round.as_millis() as u64)
    }
}
