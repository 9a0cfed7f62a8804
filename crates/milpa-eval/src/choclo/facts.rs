//! Which facts are asked: best-rank values that are whole, of the present, not too many and not
//! about themselves. Language comes later.

use std::collections::BTreeMap;

use crate::choclo::{
    entity::{Claim, Id, Value},
    graph::{Graph, Node},
    knowledge::{AnswerType, Knowledge, Mode, Relation},
    values::{self, Date},
};

/// Most right answers of a question.
const MAX_ANSWERS: usize = 10;

/// A value that answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FactValue {
    Item(Id),
    Date(Date),
    Quantity { amount: f64, symbol: &'static str },
    Text(Box<str>),
    Count(u32),
}

/// Something that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    /// Place of the subject among the graph's nodes.
    pub(crate) subject: usize,
    /// Place of the relation in the table.
    pub(crate) relation: usize,
    pub(crate) values: Vec<FactValue>,
    /// Year that the question names.
    pub(crate) dated: Option<i32>,
    /// Year since which the fact holds, where it is known: for splits by time.
    pub(crate) since: Option<i32>,
}

impl Fact {
    /// The items among the answers.
    pub(crate) fn items(&self) -> Vec<Id> {
        let item = |value: &FactValue| match value {
            FactValue::Item(id) => Some(*id),
            _ => None,
        };
        self.values.iter().filter_map(item).collect()
    }
}

/// All facts in order of subject and relation; what was left out is counted in `dropped`.
pub(crate) fn facts(
    knowledge: &Knowledge,
    graph: &Graph,
    dropped: &mut BTreeMap<String, u64>,
) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (at, node) in graph.nodes[..graph.subjects].iter().enumerate() {
        let Some(class) = node.class else { continue };
        for (number, relation) in knowledge.relations.iter().enumerate() {
            if relation.subjects >> class & 1 == 0 {
                continue;
            }
            match fact(graph, node, relation) {
                Ok(Some((values, dated, since))) => {
                    facts.push(Fact { subject: at, relation: number, values, dated, since });
                }
                Ok(None) => {}
                Err(reason) => *dropped.entry(reason.to_owned()).or_default() += 1,
            }
        }
    }
    facts
}

type Found = (Vec<FactValue>, Option<i32>, Option<i32>);

fn fact(graph: &Graph, node: &Node, relation: &Relation) -> Result<Option<Found>, &'static str> {
    let best: Vec<&Claim> = node
        .entity
        .claims
        .iter()
        .filter(|claim| claim.property == relation.property && claim.best)
        .collect();
    if best.is_empty() {
        return Ok(None);
    }
    let current: Vec<&Claim> = best.iter().copied().filter(|claim| !claim.ended).collect();
    if current.is_empty() {
        return Err("ended");
    }
    // An ended value beside a current one of the same rank: which is meant depends on the time.
    if !relation.temporal && current.len() < best.len() && relation.answer != AnswerType::Item {
        return Err("ended");
    }
    let mut values: Vec<FactValue> = Vec::new();
    for claim in &current {
        if let Some(value) = value(graph, node, relation, claim)?
            && !values.contains(&value)
        {
            values.push(value);
        }
    }
    if values.is_empty() {
        return Err(if relation.answer == AnswerType::Item {
            "an answer without a name in the dump"
        } else {
            "no value that can be written"
        });
    }
    if relation.answer == AnswerType::Quantity && values.len() > 1 {
        // The latest of several measurements, if their years are known.
        let latest = current.iter().max_by_key(|claim| claim.at).expect("there is a value");
        let rivals = current.iter().filter(|claim| claim.at == latest.at).count();
        if latest.at.is_none() || rivals > 1 {
            return Err("several values");
        }
        values = value(graph, node, relation, latest)?.into_iter().collect();
        let since = latest.at;
        let dated = since.filter(|_| !relation.wording[0].dated.is_empty());
        return Ok((!values.is_empty()).then_some((values, dated, since)));
    }
    let count = values.len();
    if count < relation.min_answers {
        return Ok(None);
    }
    if relation.mode == Mode::Count {
        return Ok(Some((vec![FactValue::Count(count as u32)], None, None)));
    }
    if count > MAX_ANSWERS {
        return Err("more than ten answers");
    }
    if relation.mode == Mode::Any && matches!(relation.answer, AnswerType::Text) && count > 1 {
        return Err("several values");
    }
    let at = current.iter().filter_map(|claim| claim.at).max();
    let dated = at.filter(|_| !relation.wording[0].dated.is_empty());
    let written = values.iter().find_map(|value| match value {
        FactValue::Date(date) => Some(date.year),
        _ => None,
    });
    let since = current.iter().filter_map(|claim| claim.start.or(claim.at)).max().or(written);
    Ok(Some((values, dated, since)))
}

fn value(
    graph: &Graph,
    node: &Node,
    relation: &Relation,
    claim: &Claim,
) -> Result<Option<FactValue>, &'static str> {
    Ok(match (&claim.value, relation.answer) {
        (Value::Item(id), AnswerType::Item) => {
            if *id == node.entity.id {
                return Err("circular");
            }
            // Without a name in either language nobody can be asked for it.
            graph.get(*id).map(|_| FactValue::Item(*id))
        }
        (Value::Time { year, month, day, precision }, AnswerType::Date) => {
            Date::from_dump(*year, *month, *day, *precision).map(FactValue::Date)
        }
        (Value::Quantity { amount, unit }, AnswerType::Quantity) => {
            let Some((_, symbol)) = values::unit(*unit, relation.unit) else {
                return Err("unknown unit");
            };
            (*amount > 0.0).then_some(FactValue::Quantity { amount: *amount, symbol })
        }
        (Value::Text(text), AnswerType::Text) => Some(FactValue::Text(text.clone())),
        _ => return Err("a value of another type"),
    })
}
