"""Default values that several commands, the server and the library share."""

# A draft model of the curated pair, else a smaller model of the family, else lookup.
DRAFT = "auto"
# Context length, in tokens, that memory is planned for when the user names none. Caches grow on demand, and few
# answers fill the longest context of a model.
PLANNED_CONTEXT = 4096
# Idle time before the background process unloads its models, as --keep-alive reads it.
KEEP_ALIVE = "5m"
# Prompts of bench and check.
SUITE = "quick"
# Generated tokens per prompt of bench and check.
SUITE_TOKENS = 64
# Generated tokens of /v1/completions, as OpenAI's API defines it.
COMPLETION_TOKENS = 16
