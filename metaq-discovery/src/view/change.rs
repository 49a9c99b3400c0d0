//! The difference between two views.

use std::fmt;

use metaq_protocol::{BrokerId, Topic};

use super::TopicView;

/// The difference between a view and the previous one. Displayed as `orders +1 -0 ~2`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewChange {
    /// The topic whose view changed.
    pub topic: Topic,
    /// The brokers that weren't in the view before.
    pub added: Vec<BrokerId>,
    /// The brokers that are no longer in the view.
    pub removed: Vec<BrokerId>,
    /// The brokers with another address or another number of partitions.
    pub changed: Vec<BrokerId>,
}

impl ViewChange {
    /// Compares two views; `None` if they are equal.
    pub(crate) fn between(old: &TopicView, new: &TopicView) -> Option<Self> {
        let topic = new.topic().clone();
        let mut change = Self { topic, added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
        // Both are sorted by id.
        let mut before = old.brokers().iter().peekable();
        for broker in new.brokers() {
            while let Some(gone) = before.next_if(|other| other.id < broker.id) {
                change.removed.push(gone.id);
            }
            match before.next_if(|other| other.id == broker.id) {
                None => change.added.push(broker.id),
                Some(other) if other != broker => change.changed.push(broker.id),
                Some(_) => {}
            }
        }
        change.removed.extend(before.map(|gone| gone.id));
        let differs = !(change.added.is_empty() && change.removed.is_empty() && change.changed.is_empty());
        differs.then_some(change)
    }
}

impl fmt::Display for ViewChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, added, removed, changed } = self;
        write!(f, "{topic} +{} -{} ~{}", added.len(), removed.len(), changed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(brokers: &[(i32, u16, u32)]) -> TopicView {
        brokers.iter().fold(TopicView::new(Topic::new("orders").unwrap()), |view, (id, port, count)| {
            view.with_broker(BrokerId(*id), format!("meta://h:{port}").parse().unwrap(), *count)
        })
    }

    #[test]
    fn a_change_counts_brokers() {
        let old = view(&[(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]);
        let new = view(&[(0, 1, 1), (1, 2, 1), (2, 1, 5), (4, 1, 1), (5, 1, 1)]);
        let change = ViewChange::between(&old, &new).unwrap();
        let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
        assert_eq!((&change.added, &change.removed), (&ids(&[4, 5]), &ids(&[3])));
        assert_eq!(change.to_string(), "orders +2 -1 ~2");
        assert_eq!(ViewChange::between(&old, &old), None);
    }
}
