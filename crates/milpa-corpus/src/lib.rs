//! WARC, HTML and JSONL to identified, filtered, deduplicated document shards, with a reason for each drop
