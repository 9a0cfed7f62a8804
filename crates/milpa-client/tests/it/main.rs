//! A remote model against a fake endpoint that misbehaves, and against a Milpa server.

mod fake;
mod misbehaviour;
mod served;
