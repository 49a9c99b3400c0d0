//! The table against a registry that changes at random, with replies and events in the order in which a
//! server sends them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use metaq_protocol::{BrokerId, Topic};

use super::{Body, Content, Found, NodeId, Nodes, Step};
use crate::backend::registry::{Layout, ViewBuilder, parse_addr, parse_partitions};

/// A server's reply to a step.
#[derive(Debug)]
enum Answer {
    Names(Vec<String>),
    Data(Vec<u8>),
    Stat(bool),
    NoNode,
}

/// A server with one-shot watches, and the client's end of its connection.
struct Server {
    nodes: BTreeMap<String, Vec<u8>>,
    /// Watches on data and existence, and on children, by path.
    data: BTreeMap<String, Vec<NodeId>>,
    children: BTreeMap<String, Vec<NodeId>>,
    answers: VecDeque<(NodeId, Step, Answer)>,
    /// The node, whether it was deleted, and the number of replies that precede the event.
    events: VecDeque<(NodeId, bool, usize)>,
    answered: usize,
    reads: usize,
}

impl Server {
    fn event(&mut self, watched: Vec<NodeId>, deleted: bool) {
        let before = self.answered + self.answers.len();
        self.events.extend(watched.into_iter().map(|node| (node, deleted, before)));
    }

    fn set(&mut self, path: &str, data: Option<&str>) {
        let (parent, _) = path.rsplit_once('/').unwrap();
        let former = match data {
            Some(data) => self.nodes.insert(path.to_owned(), data.into()),
            None => self.nodes.remove(path),
        };
        if former.is_none() && data.is_none() {
            return;
        }
        let watched = self.data.remove(path).unwrap_or_default();
        self.event(watched, data.is_none());
        if former.is_none() != data.is_none() {
            let watched = self.children.remove(parent).unwrap_or_default();
            self.event(watched, false);
        }
        if data.is_none() {
            let watched = self.children.remove(path).unwrap_or_default();
            self.event(watched, true);
        }
    }

    /// Executes a step of the table, which sets a watch.
    fn take(&mut self, nodes: &Nodes, id: NodeId, step: Step) {
        self.reads += 1;
        let Some(path) = nodes.path(id) else { return };
        let is_there = self.nodes.contains_key(&path);
        let answer = match (step, &nodes.get(id).unwrap().body) {
            (Step::Read, Body::List(_)) if is_there => {
                let prefix = format!("{path}/");
                self.children.entry(path).or_default().push(id);
                let names = self.nodes.keys().filter_map(|path| path.strip_prefix(&prefix));
                Answer::Names(names.map(str::to_owned).collect())
            }
            (Step::Read, _) if !is_there => Answer::NoNode,
            (Step::Read, _) => {
                let data = self.nodes[&path].clone();
                self.data.entry(path).or_default().push(id);
                Answer::Data(data)
            }
            _ => {
                self.data.entry(path).or_default().push(id);
                Answer::Stat(is_there)
            }
        };
        self.answers.push_back((id, step, answer));
    }

    /// The correct view at the end.
    fn view(&self, topic: &Topic, layout: &Layout) -> String {
        let (mut builder, prefix) = (ViewBuilder::new(topic, layout), format!("{}/", layout.topic(topic)));
        for id in 0..6 {
            let child = self.nodes.get(&format!("{prefix}{id}-m"));
            let master = self.nodes.get(&layout.master(BrokerId(id)));
            if let (Some(Ok(count)), Some(Ok(addr))) =
                (child.map(|data| parse_partitions(data)), master.map(|data| parse_addr(data)))
            {
                builder.broker(BrokerId(id), addr, count);
            }
        }
        format!("{:?}", builder.build().0.brokers())
    }
}

fn apply(nodes: &mut Nodes, id: NodeId, step: Step, answer: Answer) {
    let kind = nodes.get(id).map(|node| match &node.body {
        Body::List(_) => 0,
        Body::Child(_) => 1,
        Body::Master(_) => 2,
    });
    if !matches!(answer, Answer::NoNode) {
        nodes.watched(id);
    }
    match (kind, step, answer) {
        (None, ..) => return,
        (Some(0), _, Answer::Names(names)) => nodes.listed(id, names),
        (Some(0 | 2), Step::Read, Answer::NoNode) => return nodes.push_step(id, Step::Missing),
        (Some(0 | 2), _, Answer::Stat(true)) => return nodes.push_step(id, Step::Read),
        (Some(0), ..) => nodes.not_listed(id, Found::Missing),
        (Some(1), _, Answer::Data(data)) => {
            nodes.child_read(
                id,
                parse_partitions(&data).map_or_else(|why| Content::Bad(why.into()), Content::Good),
            );
        }
        (Some(1), ..) => nodes.child_read(id, Content::Missing),
        (Some(_), _, Answer::Data(data)) => {
            nodes.master_read(
                id,
                parse_addr(&data).map_or_else(|why| Content::Bad(why.into()), Content::Good),
            );
        }
        (Some(_), ..) => nodes.master_read(id, Content::Missing),
    }
    nodes.settle(id);
    if kind == Some(2) {
        nodes.remove_unused_master(id);
    }
}

#[test]
fn views_converge_for_random_changes_and_orders() {
    let layout = Layout::new("meta");
    let topics: Vec<_> = (0..4).map(|n| Topic::new(&format!("t{n}")).unwrap()).collect();
    // With seed 2450, a child that several watchers report as deleted returns before all of them have fired.
    for seed in (0..400).chain([2450]) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = Server {
            nodes: BTreeMap::new(),
            data: BTreeMap::new(),
            children: BTreeMap::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            answered: 0,
            reads: 0,
        };
        let (mut nodes, mut views) = (Nodes::new(layout.clone()), BTreeMap::new());
        let mut wanted = BTreeSet::new();
        let mut left = 300;
        loop {
            match rng.u32(0..10) {
                0..=2 if left > 0 => {
                    left -= 1;
                    let (topic, id) = (rng.choice(&topics).unwrap(), rng.i32(0..6));
                    let data = ["meta://h:1", "meta://h:2", "?"].map(|text| rng.bool().then_some(text));
                    let counts = [r#"{"numParts":1}"#, r#"{"numParts":2}"#, "?"];
                    match rng.u32(0..8) {
                        0 => server.set(&layout.topic(topic), Some("")),
                        1 if !server
                            .nodes
                            .keys()
                            .any(|p| p.starts_with(&format!("{}/", layout.topic(topic)))) =>
                        {
                            server.set(&layout.topic(topic), None);
                        }
                        1 | 2 => server.set(&layout.master(BrokerId(id)), *rng.choice(&data).unwrap()),
                        3 => nodes.unwant(topic),
                        _ if server.nodes.contains_key(&layout.topic(topic)) => {
                            let data = rng.choice(counts).filter(|_| rng.u32(0..3) > 0);
                            server.set(&layout.child(topic, &format!("{id}-m")), data);
                        }
                        _ => {}
                    }
                }
                3 if left > 0 => {
                    let topic = rng.choice(&topics).unwrap();
                    let (id, _) = nodes.want(topic);
                    nodes.refresh(id);
                    wanted.insert(topic);
                }
                4 | 5 => {
                    if let Some((id, step)) = nodes.next_change().or_else(|| nodes.next_unread()) {
                        server.take(&nodes, id, step);
                    }
                }
                6 | 7 => {
                    // A reply may be received before an event that was sent before it,
                    if let Some((id, step, answer)) = server.answers.pop_front() {
                        server.answered += 1;
                        apply(&mut nodes, id, step, answer);
                    }
                }
                8 => {
                    // but no event before the replies that were sent before it.
                    if server.events.front().is_some_and(|(_, _, before)| *before <= server.answered) {
                        let (id, deleted, _) = server.events.pop_front().unwrap();
                        nodes.fired(id, deleted);
                    }
                }
                _ => {
                    if !nodes.take_affected()
                        && let Some(id) = nodes.next_ready()
                    {
                        let list = nodes.list(id).unwrap();
                        views.insert(list.topic.clone(), format!("{:?}", nodes.view(list).0.brokers()));
                    }
                }
            }
            let is_idle = !nodes.has_steps() && !nodes.has_ready();
            if left == 0 && is_idle && server.answers.is_empty() && server.events.is_empty() {
                // Topics that were left are followed again.
                let mut outdated = false;
                for topic in topics.iter().filter(|topic| wanted.contains(topic)) {
                    let was_wanted =
                        nodes.topic(topic).and_then(|id| nodes.list(id)).is_some_and(|list| list.wanted);
                    let (id, _) = nodes.want(topic);
                    if !was_wanted {
                        nodes.refresh(id);
                        outdated = true;
                    }
                }
                if !outdated && !nodes.has_steps() && !nodes.has_ready() {
                    break;
                }
            }
        }
        for topic in &wanted {
            let Some(view) = views.get(*topic) else { panic!("seed {seed}: {topic} has no view") };
            assert_eq!(*view, server.view(topic, &layout), "seed {seed}, {topic}");
        }
        assert!(server.reads < 4_000, "seed {seed}: {} reads", server.reads);
        let watched = [&server.data, &server.children].map(|watches| watches.values().flatten().count());
        let watchers: usize = nodes.by_id.values().map(|node| usize::from(node.watchers)).sum();
        assert_eq!(watchers + nodes.orphaned_watchers, watched[0] + watched[1], "seed {seed}: watches");
        assert_eq!(nodes.unwanted, 0, "seed {seed}: all topics are followed again");
        for node in nodes.by_id.values() {
            if let Body::Master(master) = &node.body {
                assert!(!master.lists.is_empty() || node.watchers > 0, "seed {seed}: {node:?} is of no use");
            }
        }
    }
}
