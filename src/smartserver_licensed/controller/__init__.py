"""Facts in, decisions, then: make durable → apply → publish → replace the status. Declares the Protocols it needs."""
