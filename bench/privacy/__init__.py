"""What TIP and its rivals protect and what they cost: ``python -m bench.privacy COMMAND --help``.

commands   one file for each: active, attack, compare, control, federate, pictures, prior, rounding, study,
           train-generator, train-prior, tune, utility
client     what a client computes and sends: its gradient, the defenses, what they release
attacker   what is made of a release: knowledge of the defense, labels, the problem that it poses, the search for images
prior      a denoiser by flow matching: its net, training and worth; attacker/plug_and_play.py uses it
generator  a decoder of images: its net and training; attacker/feature_search.py uses it
trained    what the trainings of both have in common: settings, steps, file, images, command
study      attackers against defenses: who meets whom on what, how it is judged, the tables; the search for settings
federated  training under each defense
images     what all is measured on
nets       what is trained and attacked
rounding   what the grid of released values leaves of the Gaussian mechanism's assumptions
figures    pictures by matplotlib
results    what the commands measured
"""
