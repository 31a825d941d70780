"""Attacks: what somebody with the model would try in order to get the forgotten back, one file each."""
