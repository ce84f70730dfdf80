/// Marks what libshoal.so shows; everything else is hidden.
#ifndef SHOAL_EXPORT_H_
#define SHOAL_EXPORT_H_

#define SHOAL_API __attribute__((visibility("default")))

#endif  // SHOAL_EXPORT_H_
