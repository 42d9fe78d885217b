mod basics;
mod hostile;
mod net;
mod roll;
