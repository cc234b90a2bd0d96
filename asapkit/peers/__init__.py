"""Released weights of other methods: recognised by their key names, read whole or not at all, and run as any encoder of this house.

`reading.load(file)` gives the encoder and a report of what matched, was renamed, adapted and dropped. `families.FAMILIES` is the table of what is
known; the other files hold one network each that no library here gives. Names, shapes and equations are the sources'; no code is.
"""
