"""What is licensed, counted and decided. Pure: values in, values out; no I/O, no clock, no logging, no asyncio."""
