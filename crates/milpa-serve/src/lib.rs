//! OpenAI-compatible HTTP and the chat page
