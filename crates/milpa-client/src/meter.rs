//! What was asked so far, what may still be asked, and when.
//!
//! Every attempt is admitted here before it is sent: what it may use is reserved, so that requests
//! under way together do not pass the budget together. It knows no protocol.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use milpa_base::{EndpointRecord, Sampling, endpoint::Cost};

use crate::{
    config::{Budget, EndpointConfig, ModelPrice},
    wire::Answer,
};

/// Settings and names of which a record keeps no more.
const MOST_KEPT: usize = 16;

/// What a request may use at most, or used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

impl Usage {
    fn tokens(self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

/// Counts and limits of one endpoint.
pub(crate) struct Meter {
    record: EndpointRecord,
    budget: Budget,
    price: Option<(ModelPrice, String)>,
    attempts: u64,
    /// Of requests under way.
    reserved: Usage,
    under_way: u64,
    between_requests: Duration,
    seconds_per_token: f64,
    next_request: Instant,
    next_tokens: Instant,
    paused_until: Instant,
}

impl Meter {
    pub(crate) fn new(config: &EndpointConfig, model: &str, price: Option<ModelPrice>) -> Self {
        let now = Instant::now();
        let price = price.zip(config.prices.as_ref().map(|prices| prices.currency.clone()));
        let cost =
            price.as_ref().map(|(_, currency)| Cost { amount: 0.0, currency: currency.clone() });
        let record = EndpointRecord {
            url: config.url.to_string(),
            model: model.to_owned(),
            cost,
            ..EndpointRecord::default()
        };
        let minute = |rate: Option<f64>| rate.map_or(0.0, |rate| 60.0 / rate);
        Self {
            record,
            budget: config.budget.clone(),
            price,
            attempts: 0,
            reserved: Usage::default(),
            under_way: 0,
            between_requests: Duration::from_secs_f64(
                minute(config.requests_per_minute).min(3600.0),
            ),
            seconds_per_token: minute(config.tokens_per_minute),
            next_request: now,
            next_tokens: now,
            paused_until: now,
        }
    }

    pub(crate) fn record(&self) -> EndpointRecord {
        self.record.clone()
    }

    /// Admits an attempt that may use `most`, and says when it may be sent; `None` where it has to
    /// be seen first what the requests under way use. The error says which part of the budget the
    /// attempt would pass.
    pub(crate) fn admit(
        &mut self,
        most: Usage,
        is_repeated: bool,
    ) -> Result<Option<Instant>, String> {
        let Budget { max_requests, max_tokens, max_cost } = &self.budget;
        if let Some(limit) = max_requests.filter(|&limit| self.attempts >= limit) {
            return Err(format!("{limit} requests were sent (--max-requests)"));
        }
        let used = self.record.prompt_tokens + self.record.completion_tokens;
        if let Some(limit) = max_tokens {
            if used + most.tokens() > *limit {
                return Err(format!(
                    "{used} tokens were used and the next request may use {}, of {limit} \
                     (--max-tokens-total)",
                    most.tokens()
                ));
            }
            if used + self.reserved.tokens() + most.tokens() > *limit {
                return Ok(None);
            }
        }
        if let (Some(limit), Some((price, currency))) = (max_cost, &self.price) {
            let spent = self.record.cost.as_ref().map_or(0.0, |cost| cost.amount);
            let next = price.of(most.prompt_tokens, most.completion_tokens);
            if spent + next > *limit {
                return Err(format!(
                    "{spent:.4} {currency} were spent and the next request may cost {next:.4}, of \
                     {limit} (--max-cost)"
                ));
            }
            let under_way = self.under_way as f64 * price.per_request
                + ModelPrice { per_request: 0.0, ..*price }
                    .of(self.reserved.prompt_tokens, self.reserved.completion_tokens);
            if spent + under_way + next > *limit {
                return Ok(None);
            }
        }
        self.attempts += 1;
        self.record.retries += u64::from(is_repeated);
        self.under_way += 1;
        self.reserved.prompt_tokens += most.prompt_tokens;
        self.reserved.completion_tokens += most.completion_tokens;
        let at = self.next_request.max(self.next_tokens).max(self.paused_until).max(Instant::now());
        self.next_request = at + self.between_requests;
        let for_tokens = (most.tokens() as f64 * self.seconds_per_token).min(3600.0);
        self.next_tokens = at + Duration::from_secs_f64(for_tokens);
        Ok(Some(at))
    }

    /// Gives back what an attempt had reserved; an answer is counted.
    pub(crate) fn settle(&mut self, reserved: Usage, answer: Option<&Answer>) {
        self.under_way -= 1;
        self.reserved.prompt_tokens -= reserved.prompt_tokens;
        self.reserved.completion_tokens -= reserved.completion_tokens;
        let Some(answer) = answer else { return };
        self.record.requests += 1;
        let told = answer.prompt_tokens.zip(answer.completion_tokens);
        self.record.estimated += u64::from(told.is_none());
        // A scored prompt has no text after it but what had to be asked for.
        let written = match answer.logprobs {
            Some(_) => reserved.completion_tokens,
            None => answer.text.len() as u64 / 3 + 1,
        };
        let (prompt, completion) = told.unwrap_or((reserved.prompt_tokens, written));
        self.record.prompt_tokens += prompt;
        self.record.completion_tokens += completion;
        if let (Some(cost), Some((price, _))) = (&mut self.record.cost, &self.price) {
            cost.amount += price.of(prompt, completion);
        }
    }

    /// Nothing is sent for a while: the endpoint asked for that.
    pub(crate) fn pause(&mut self, time: Duration) {
        self.paused_until = self.paused_until.max(Instant::now() + time);
    }

    /// Counts what went wrong.
    pub(crate) fn problem(&mut self, kind: &str) {
        *self.record.problems.entry(kind.to_owned()).or_default() += 1;
    }

    /// Counts an answer that an earlier run had received.
    pub(crate) fn remember(&mut self) {
        self.record.remembered += 1;
    }

    /// Notes who answered, and how they had been asked.
    pub(crate) fn note(&mut self, answer: &Answer, sampling: Option<Sampling>) {
        let count = |counts: &mut BTreeMap<String, u64>, name: &Option<String>| {
            if let Some(name) = name
                && (counts.len() < MOST_KEPT || counts.contains_key(name))
            {
                *counts.entry(name.clone()).or_default() += 1;
            }
        };
        count(&mut self.record.reported_models, &answer.model);
        count(&mut self.record.fingerprints, &answer.fingerprint);
        if let Some(sampling) = sampling {
            keep(&mut self.record.seeds, sampling.seed);
            keep(&mut self.record.temperatures, sampling.temperature);
        }
    }
}

fn keep<T: PartialEq + PartialOrd>(list: &mut Vec<T>, value: T) {
    if list.len() < MOST_KEPT && !list.contains(&value) {
        let at = list.iter().position(|other| *other > value).unwrap_or(list.len());
        list.insert(at, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Prices;

    const MOST: Usage = Usage { prompt_tokens: 60, completion_tokens: 40 };

    fn answer(prompt: u64, completion: u64) -> Answer {
        Answer {
            text: String::new(),
            finish_reason: String::new(),
            model: None,
            fingerprint: None,
            prompt_tokens: Some(prompt),
            completion_tokens: Some(completion),
            logprobs: None,
        }
    }

    fn meter(change: impl Fn(&mut EndpointConfig)) -> Meter {
        let mut config = EndpointConfig::new("http://localhost/v1".parse().unwrap());
        let price = ModelPrice {
            prompt_per_million: 10_000.0,
            completion_per_million: 10_000.0,
            per_request: 0.0,
        };
        let models = [("m".to_owned(), price)].into();
        config.prices = Some(Prices { currency: "USD".to_owned(), models });
        change(&mut config);
        Meter::new(&config, "m", Some(price))
    }

    #[test]
    fn what_is_under_way_counts_against_the_budget() {
        // A request may cost 1.0 and costs 0.3.
        let mut by_cost = meter(|config| config.budget.max_cost = Some(2.0));
        assert!(by_cost.admit(MOST, false).unwrap().is_some());
        assert!(by_cost.admit(MOST, false).unwrap().is_some());
        assert!(by_cost.admit(MOST, false).unwrap().is_none(), "two are under way");
        by_cost.settle(MOST, Some(&answer(20, 10)));
        by_cost.settle(MOST, Some(&answer(20, 10)));
        assert!((by_cost.record().cost.unwrap().amount - 0.6).abs() < 1e-9);
        assert!(by_cost.admit(MOST, false).unwrap().is_some());
        by_cost.settle(MOST, Some(&answer(60, 40)));
        assert!(by_cost.admit(MOST, false).unwrap_err().contains("--max-cost"));
        let mut by_tokens = meter(|config| config.budget.max_tokens = Some(150));
        assert!(by_tokens.admit(MOST, false).unwrap().is_some());
        assert!(by_tokens.admit(MOST, false).unwrap().is_none());
        by_tokens.settle(MOST, None);
        assert!(by_tokens.admit(MOST, false).unwrap().is_some());
        by_tokens.settle(MOST, Some(&answer(60, 40)));
        assert!(by_tokens.admit(MOST, false).unwrap_err().contains("--max-tokens-total"));
        let mut by_requests = meter(|config| config.budget.max_requests = Some(1));
        assert!(by_requests.admit(MOST, false).unwrap().is_some());
        assert!(by_requests.admit(MOST, true).unwrap_err().contains("--max-requests"));
    }

    #[test]
    fn requests_are_spread_over_a_minute() {
        let mut meter = meter(|config| {
            config.requests_per_minute = Some(60.0);
            config.tokens_per_minute = Some(600.0);
        });
        // A hundred tokens take ten seconds at this rate, longer than the second of a request.
        let first = meter.admit(MOST, false).unwrap().unwrap();
        let second = meter.admit(MOST, false).unwrap().unwrap();
        assert_eq!((second - first).as_millis(), 10_000);
        meter.pause(Duration::from_secs(100));
        assert!(meter.admit(MOST, false).unwrap().unwrap() - first >= Duration::from_secs(99));
    }
}
