export const text: string = 'hello';
