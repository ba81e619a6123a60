"""Where jobs run: the processes of one server, and their supervisor."""
