"""``omniform serve --data-parallel``: processes of this machine that each hold the models, behind one door.

The door is the server itself: keys, limits, turns, logs and pages are its own. What computes goes to the process that
has the request's beginning, over a unix socket, as messages of ASGI.
"""
