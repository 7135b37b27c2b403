"""The claims by topic: each module has their texts, what they need, and how they are judged."""
