//! What two reviewers and an adjudicator make of an answer, and how far reviewers agree.
//!
//! Two reviewers who keep a question and want the same answer, country and topic accept it; two who
//! reject it reject it; everything else goes to an adjudicator. It knows no sheet.

use std::collections::BTreeMap;

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use super::{
    pattern::Word,
    rules::Language,
    sheets::{Adjudication, Answered, Decision, Proposal, Review},
};
use crate::statistics::agreement::{Agreement, Distance, Ratings, agreement};

/// Bootstrap replicates behind each interval of agreement.
const REPLICATES: usize = 1000;

/// A question with an answer that people stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Identity of the question.
    pub id: String,
    /// Its language.
    pub language: Language,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: Proposal,
    /// Whether an adjudicator had to decide.
    pub adjudicated: bool,
}

/// Where an item stands.
pub(crate) enum Standing {
    Accepted(Accepted),
    Rejected(String),
    /// Fewer than two reviews.
    WaitsForReview,
    WaitsForAdjudication,
}

/// Decides about an item.
pub(crate) fn standing(
    item: &Answered,
    reviews: &[Review],
    adjudication: Option<&Adjudication>,
) -> Standing {
    let [first, second] = reviews else { return Standing::WaitsForReview };
    let accept = |answer: Proposal, adjudicated| {
        Standing::Accepted(Accepted {
            id: item.id.clone(),
            language: item.language,
            question: item.question.clone(),
            answer,
            adjudicated,
        })
    };
    if let Some(decision) = adjudication {
        return match &decision.reject {
            Some(reason) => Standing::Rejected(reason.clone()),
            None => accept(decision.changes.apply(&common(item, first, second)), true),
        };
    }
    match (&first.decision, &second.decision) {
        (Decision::Reject { reason: one }, Decision::Reject { reason: other }) => {
            let reason = if one == other { one.clone() } else { "for two reasons".to_owned() };
            Standing::Rejected(reason)
        }
        (Decision::Keep { correct: a, answer }, Decision::Keep { correct: b, answer: other })
            if a == b && same_answer(answer, other) =>
        {
            accept(answer.clone(), false)
        }
        _ => Standing::WaitsForAdjudication,
    }
}

/// What both reviewers want, and where they differ what was proposed.
fn common(item: &Answered, first: &Review, second: &Review) -> Proposal {
    let (Decision::Keep { answer: a, .. }, Decision::Keep { answer: b, .. }) =
        (&first.decision, &second.decision)
    else {
        return item.proposal.clone();
    };
    let mut common = item.proposal.clone();
    if says_the_same(a, b) {
        common = a.clone();
    }
    let either = |a: &str, b: &str, proposed: &str| if a == b { a } else { proposed }.to_owned();
    common.country = either(&a.country, &b.country, &item.proposal.country);
    common.topic = either(&a.topic, &b.topic, &item.proposal.topic);
    common
}

fn same_answer(a: &Proposal, b: &Proposal) -> bool {
    says_the_same(a, b) && a.country == b.country && a.topic == b.topic
}

/// Whether two answers are the same but for case, accents and marks: their first short forms, or
/// their sentences where one has none.
fn says_the_same(a: &Proposal, b: &Proposal) -> bool {
    let key = |text: &str| -> Vec<String> {
        Word::all(text).into_iter().map(|word| word.folded).collect()
    };
    match (a.short_answers.first(), b.short_answers.first()) {
        (Some(a), Some(b)) => key(a) == key(b),
        _ => key(&a.reference) == key(&b.reference),
    }
}

/// How far reviewers agree on one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What is judged: `verdict`, `correct`, `country` or `topic`.
    pub on: String,
    /// All items, or those of a language or country.
    pub among: String,
    /// The coefficients.
    pub agreement: Agreement,
}

/// Agreement of the two reviews of each item: on all, and on the verdict by language and country.
pub(crate) fn measure(
    items: &[Answered],
    reviews: &BTreeMap<String, Vec<Review>>,
    seed: Seed,
) -> Vec<Measured> {
    let pairs: Vec<(&Answered, &[Review; 2])> = items
        .iter()
        .filter_map(|item| Some((item, reviews.get(&item.id)?.as_slice().try_into().ok()?)))
        .collect();
    let mut measured = Vec::new();
    let mut add = |on: &str, among: &str, units: Vec<[String; 2]>| {
        let mut names: Vec<&String> = units.iter().flatten().collect();
        names.sort();
        names.dedup();
        let number = |name: &String| names.binary_search(&name).ok();
        let ratings = Ratings {
            units: units.iter().map(|unit| unit.iter().map(number).collect()).collect(),
            categories: names.len().max(2),
        };
        let seed = seed.derive(on).derive(among);
        if let Some(agreement) = agreement(&ratings, Distance::Nominal, REPLICATES, seed) {
            measured.push(Measured { on: on.to_owned(), among: among.to_owned(), agreement });
        }
    };
    let verdict = |review: &Review| match review.decision {
        Decision::Keep { .. } => "keep".to_owned(),
        Decision::Reject { .. } => "reject".to_owned(),
    };
    let verdicts = |of: &dyn Fn(&Answered) -> bool| -> Vec<[String; 2]> {
        let these = pairs.iter().filter(|(item, _)| of(item));
        these.map(|(_, [a, b])| [verdict(a), verdict(b)]).collect()
    };
    let kept = |of: &dyn Fn(bool, &Proposal) -> String| -> Vec<[String; 2]> {
        let both = pairs.iter().filter_map(|(_, [a, b])| match (&a.decision, &b.decision) {
            (
                Decision::Keep { correct: x, answer: a },
                Decision::Keep { correct: y, answer: b },
            ) => Some([of(*x, a), of(*y, b)]),
            _ => None,
        });
        both.collect()
    };
    add("verdict", "all", verdicts(&|_| true));
    add("correct", "all", kept(&|correct, _| correct.to_string()));
    add("country", "all", kept(&|_, answer| answer.country.clone()));
    add("topic", "all", kept(&|_, answer| answer.topic.clone()));
    for language in Language::ALL {
        add("verdict", language.code(), verdicts(&|item| item.language == language));
    }
    let mut countries: Vec<&str> =
        pairs.iter().map(|(item, _)| item.proposal.country.as_str()).collect();
    countries.sort_unstable();
    countries.dedup();
    for country in countries {
        add("verdict", country, verdicts(&|item| item.proposal.country == country));
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(short: &str, topic: &str) -> Proposal {
        Proposal {
            reference: format!("Es {short}."),
            short_answers: vec![short.to_owned()],
            source: "https://example.org".to_owned(),
            quote: String::new(),
            country: "PE".to_owned(),
            topic: topic.to_owned(),
        }
    }

    fn item() -> Answered {
        Answered {
            id: "t1".to_owned(),
            language: Language::Es,
            question: "¿Cuál es la capital de Perú?".to_owned(),
            proposal: proposal("Lima", "geography"),
            author: "a".to_owned(),
        }
    }

    fn keep(by: &str, correct: bool, answer: Proposal) -> Review {
        Review { by: by.to_owned(), decision: Decision::Keep { correct, answer } }
    }

    fn reject(by: &str, reason: &str) -> Review {
        Review { by: by.to_owned(), decision: Decision::Reject { reason: reason.to_owned() } }
    }

    fn check(reviews: &[Review], expect: &str) {
        let found = match standing(&item(), reviews, None) {
            Standing::Accepted(accepted) => accepted.answer.short_answers.join(""),
            Standing::Rejected(reason) => reason,
            Standing::WaitsForReview => "waits".to_owned(),
            Standing::WaitsForAdjudication => "differ".to_owned(),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn two_must_agree() {
        let lima = || proposal("Lima", "geography");
        check(&[keep("x", true, lima())], "waits");
        check(&[keep("x", true, lima()), keep("y", true, lima())], "Lima");
        check(&[keep("x", true, lima()), keep("y", true, proposal("Lima", "history"))], "differ");
        check(
            &[keep("x", true, lima()), keep("y", false, proposal("Cuzco", "geography"))],
            "differ",
        );
        let cuzco = [
            keep("x", false, proposal("Cuzco", "geography")),
            keep("y", false, proposal("cuzco", "geography")),
        ];
        check(&cuzco, "Cuzco");
        check(&[reject("x", "unclear"), reject("y", "unclear")], "unclear");
        check(&[reject("x", "unclear"), reject("y", "other")], "for two reasons");
        check(&[reject("x", "unclear"), keep("y", true, lima())], "differ");
    }

    #[test]
    fn agreement_is_that_of_the_statistics() {
        let items: Vec<Answered> =
            (0..4).map(|n| Answered { id: format!("t{n}"), ..item() }).collect();
        let lima = || proposal("Lima", "geography");
        let reviews = (0..4).map(|n| {
            let second = if n < 3 { keep("y", true, lima()) } else { reject("y", "other") };
            (format!("t{n}"), vec![keep("x", true, lima()), second])
        });
        let measured = measure(&items, &reviews.collect(), Seed(1));
        assert_eq!((measured[0].on.as_str(), measured[0].agreement.units), ("verdict", 4));
        assert_eq!(measured[0].agreement.observed, 0.75);
        let among: Vec<&str> = measured.iter().map(|one| one.among.as_str()).collect();
        assert_eq!(among, ["all", "all", "all", "all", "es", "PE"]);
    }
}
