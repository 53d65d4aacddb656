"""Methods that train a supernet as a whole: Pi-NAS, PreNAS, and the baselines SPOS and FairNAS."""
