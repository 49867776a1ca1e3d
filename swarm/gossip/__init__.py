"""Who is here: membership as pure state machines. Opens no socket, reads no clock."""
