"""The chat: lines and commands of the user, streamed answers."""
